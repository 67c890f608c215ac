"""The kernel laboratory: what kernels do when a userfaultfd is released, and when a range of it is unregistered."""
