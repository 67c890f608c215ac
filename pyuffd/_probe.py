"""What this kernel and this user may do with userfaultfd, and why not."""

import errno
import os
from dataclasses import dataclass

from pyuffd import _core
from pyuffd._flags import Feature


@dataclass(frozen=True)
class Probe:
    """What ``probe()`` found. ``print()`` gives a table.

    Attributes:
        kernel: The running kernel, as ``uname -r`` prints it.
        release_generation: ``"sigbus"``, ``"nopage"`` or ``"retry"``: what that kernel does when a fault meets a
            released userfaultfd, by its version.
        page_size: The base page size in bytes.
        hugetlb_page_size: That of the default hugetlb pool in bytes, 0 where there is none.
        device: 0 where ``/dev/userfaultfd`` can be used, else the errno with which it was refused.
        syscall: The same for userfaultfd(2).
        user_mode_only: The same for userfaultfd(2) with ``UFFD_USER_MODE_ONLY``.
        unprivileged_userfaultfd: The sysctl ``vm.unprivileged_userfaultfd``, -1 where it cannot be read.
        features: What ``UFFDIO_API`` offers; empty where no userfaultfd can be opened.
    """

    kernel: str
    release_generation: str
    page_size: int
    hugetlb_page_size: int
    device: int
    syscall: int
    user_mode_only: int
    unprivileged_userfaultfd: int
    features: Feature

    @property
    def usable(self) -> bool:
        """Whether any userfaultfd can be opened."""
        return 0 in (self.device, self.syscall, self.user_mode_only)

    @property
    def full(self) -> bool:
        """Whether one can be opened that serves kernel accesses too (read(2) into a missing page, KVM)."""
        return 0 in (self.device, self.syscall)

    @property
    def advice(self) -> str:
        """What to change so that everything can be served; empty where it can."""
        if self.full:
            return ""
        change = (
            "give this user read and write access to /dev/userfaultfd, or set the sysctl "
            "vm.unprivileged_userfaultfd to 1, or grant CAP_SYS_PTRACE"
        )
        if self.usable:
            return f"only Userfaultfd(user_mode_only=True) is permitted; for kernel accesses too: {change}"
        if errno.ENOSYS in (self.syscall, self.user_mode_only):
            return "nothing can be served: the kernel lacks CONFIG_USERFAULTFD"
        return (
            "nothing can be served: a seccomp filter (a container's default profile) forbids userfaultfd(2): "
            f"allow it there; and {change}"
        )

    def __str__(self) -> str:
        names = _core.feature_names(int(self.features)) if self.usable else "none"
        huge = f"{self.hugetlb_page_size} bytes" if self.hugetlb_page_size else "none"
        sysctl = self.unprivileged_userfaultfd
        rows = [
            ("kernel", f"Linux {self.kernel}"),
            ("release generation", f"{self.release_generation} (by version)"),
            ("page size", f"{self.page_size} bytes"),
            ("hugetlb page size", huge),
            ("/dev/userfaultfd", _attempt(self.device)),
            ("userfaultfd(2)", _attempt(self.syscall)),
            ("  user mode only", _attempt(self.user_mode_only)),
            ("vm.unprivileged_userfaultfd", str(sysctl) if sysctl >= 0 else "cannot be read"),
            ("features", names),
            ("advice", self.advice or "none: everything can be served"),
        ]
        return "\n".join(f"{name:<28} {value}" for name, value in rows)


def _attempt(error: int) -> str:
    return f"refused: {os.strerror(error)}" if error else "can be opened"


def probe() -> Probe:
    """Find out what this kernel and this user may do, on throw-away descriptors; never raises."""
    found = _core.probe()
    return Probe(
        kernel=found["kernel"],
        release_generation=found["release_generation"],
        page_size=found["page_size"],
        hugetlb_page_size=found["hugetlb_page_size"],
        device=found["device"],
        syscall=found["syscall"],
        user_mode_only=found["user_mode_only"],
        unprivileged_userfaultfd=found["unprivileged_userfaultfd"],
        features=Feature(found["features"]),
    )
