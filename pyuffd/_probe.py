"""What this kernel and this user may do with userfaultfd, and why not."""

import errno
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from pyuffd import _core
from pyuffd._flags import Feature
from pyuffd._memory_kinds import MemoryKind, memory_kinds
from pyuffd._release import Release, find_release, known_release

_DEVICE = Path("/dev/userfaultfd")


@dataclass(frozen=True)
class Probe:
    """What ``probe()`` found. ``print()`` gives a table.

    Attributes:
        kernel: The running kernel, as ``uname -r`` prints it.
        release: What that kernel does when a fault meets a released userfaultfd, and how that is known.
        page_size: The base page size in bytes.
        hugetlb_page_size: That of the default hugetlb pool in bytes, 0 where there is none.
        device: 0 where ``/dev/userfaultfd`` can be used, else the errno with which it was refused.
        device_access: Who may use the device: its mode and owners, such as ``"-rw------- root root"``; empty where
            there is none.
        syscall: The same for userfaultfd(2).
        user_mode_only: The same for userfaultfd(2) with ``UFFD_USER_MODE_ONLY``.
        unprivileged_userfaultfd: The sysctl ``vm.unprivileged_userfaultfd``, -1 where it cannot be read.
        features: What ``UFFDIO_API`` offers; empty where no userfaultfd can be opened.
        memory: What can be done with each kind of memory in each mode; empty where no userfaultfd can be opened.
    """

    kernel: str
    release: Release
    page_size: int
    hugetlb_page_size: int
    device: int
    device_access: str
    syscall: int
    user_mode_only: int
    unprivileged_userfaultfd: int
    features: Feature
    memory: tuple[MemoryKind, ...]

    @property
    def release_generation(self) -> str:
        """``"sigbus"``, ``"nopage"`` or ``"retry"``."""
        return self.release.generation

    @property
    def usable(self) -> bool:
        """Whether any userfaultfd can be opened."""
        return 0 in (self.device, self.syscall, self.user_mode_only)

    @property
    def full(self) -> bool:
        """Whether one can be opened that serves kernel accesses too (read(2) into a missing page, KVM).

        Fork events (EVENT_FORK) need CAP_SYS_PTRACE in the initial user namespace besides, which is not looked at.
        """
        return 0 in (self.device, self.syscall)

    @property
    def advice(self) -> str:
        """What to change so that every access can be served, a kernel's too; empty where each can."""
        if self.full:
            return ""
        change = (
            "give this user read and write access to /dev/userfaultfd, or set the sysctl "
            "vm.unprivileged_userfaultfd to 1, or grant CAP_SYS_PTRACE"
        )
        if self.usable:
            return f"only user mode is permitted (kernel accesses to missing pages fail); for those too: {change}"
        if errno.ENOSYS in (self.syscall, self.user_mode_only):
            return "nothing can be served: the kernel lacks CONFIG_USERFAULTFD"
        return (
            "nothing can be served: a seccomp filter (a container's default profile) forbids userfaultfd(2): "
            f"allow it there; and {change}"
        )

    def __str__(self) -> str:
        return "\n".join(f"{name:<28} {value}" for name, value in self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        names = _core.feature_names(int(self.features)) if self.usable else "none"
        sysctl = self.unprivileged_userfaultfd
        device = f" ({self.device_access})" if self.device_access else ""
        return [
            ("kernel", f"Linux {self.kernel}"),
            ("release generation", str(self.release)),
            ("  an early close", self.release.early_close),
            ("  UNREGISTER without WAKE", self.release.lost_wakes_text),
            ("page size", f"{self.page_size} bytes"),
            ("hugetlb page size", f"{self.hugetlb_page_size} bytes" if self.hugetlb_page_size else "none"),
            ("/dev/userfaultfd", _attempt(self.device) + device),
            ("userfaultfd(2)", _attempt(self.syscall)),
            ("  user mode only", _attempt(self.user_mode_only)),
            ("vm.unprivileged_userfaultfd", str(sysctl) if sysctl >= 0 else "cannot be read"),
            ("features", names),
            *((f"{one.kind}, {one.mode}", one.refused or ", ".join(one.ioctls)) for one in self.memory),
            ("advice", self.advice or "none: everything can be served"),
        ]


def _attempt(error: int) -> str:
    return f"refused: {os.strerror(error)}" if error else "can be opened"


def _device_access() -> str:
    try:
        status = _DEVICE.stat()
    except OSError:
        return ""
    return f"{stat.filemode(status.st_mode)} {_user(status.st_uid)} {_group(status.st_gid)}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def probe(*, fresh: bool = False) -> Probe:
    """Find out what this kernel and this user may do, on throw-away descriptors; never raises.

    Args:
        fresh: Find the release generation by experiment, which takes some seconds and up to 256 MiB in child processes,
            and keep it for this boot in ``~/.cache/pyuffd``, where every later ``probe()`` and ``serve()`` of this user
            finds it. Without, it is what was found in this boot, else what the kernel's version says.
    """
    found = _core.probe()
    full = 0 in (found["device"], found["syscall"])
    usable = full or found["user_mode_only"] == 0
    features = Feature(found["features"])
    return Probe(
        kernel=found["kernel"],
        release=find_release() if fresh else known_release(),
        page_size=found["page_size"],
        hugetlb_page_size=found["hugetlb_page_size"],
        device=found["device"],
        device_access=_device_access(),
        syscall=found["syscall"],
        user_mode_only=found["user_mode_only"],
        unprivileged_userfaultfd=found["unprivileged_userfaultfd"],
        features=features,
        memory=memory_kinds(features, not full) if usable else (),
    )
