"""The kernel laboratory: what three generations of one kernel, and the host, do when a userfaultfd is released."""
