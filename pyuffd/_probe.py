"""What this kernel supports and this user may do with userfaultfd, and what prevents the rest."""

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from functools import cached_property

from pyuffd import _core
from pyuffd._circumstances import DEVICE, Circumstances, circumstances
from pyuffd._flags import Feature
from pyuffd._memory_kinds import MemoryKind, memory_kinds
from pyuffd._obstacles import Attempts, Blocked, Obstacle, obstacles
from pyuffd._release import Release, find_release, known_release


@dataclass(frozen=True)
class Probe:
    """The result of ``probe()``. ``print()`` shows it as a table.

    Attributes:
        kernel: The version of the running kernel, as ``uname -r`` prints it.
        release: What this kernel does when a fault meets a released userfaultfd, and how this was found.
        page_size: The base page size in bytes.
        hugetlb_page_size: The page size of the default hugetlb pool in bytes. 0 if there is no such pool.
        device: 0 if this process can open a userfaultfd by ``/dev/userfaultfd``, otherwise the errno of the refusal.
        device_access: The mode and the owners of the device, such as ``"crw------- root root"``. Empty if there is no
            device.
        syscall: 0 or the errno, like ``device``, for userfaultfd(2).
        user_mode_only: 0 or the errno, like ``device``, for userfaultfd(2) with ``UFFD_USER_MODE_ONLY``.
        fork_events: 0 or the errno, like ``device``, for a userfaultfd with the feature EVENT_FORK.
        unprivileged_userfaultfd: The sysctl ``vm.unprivileged_userfaultfd``. -1 if it cannot be read.
        features: The features that ``UFFDIO_API`` offers. Empty if no userfaultfd can be opened.
        memory: The ioctls for each kind of memory in each mode. Empty if no userfaultfd can be opened.
        circumstances: Facts about this process and its system.
    """

    kernel: str
    release: Release
    page_size: int
    hugetlb_page_size: int
    device: int
    device_access: str
    syscall: int
    user_mode_only: int
    fork_events: int
    unprivileged_userfaultfd: int
    features: Feature
    memory: tuple[MemoryKind, ...]
    circumstances: Circumstances

    @property
    def release_generation(self) -> str:
        """``"sigbus"``, ``"nopage"`` or ``"retry"``."""
        return self.release.generation

    @property
    def usable(self) -> bool:
        """Whether any userfaultfd can be opened."""
        return self._attempts.usable

    @property
    def full(self) -> bool:
        """Whether a userfaultfd can be opened that serves kernel accesses, too (by read(2) or KVM)."""
        return self._attempts.full

    @cached_property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """What prevents this user from using userfaultfd, or a part of it. Empty if nothing does."""
        return obstacles(self._attempts, self.circumstances)

    @property
    def advice(self) -> str:
        """What to change so that all accesses can be served, those of the kernel included. Empty if all of them can."""
        if self.full:
            return ""
        if self.usable:
            blocked: Blocked = "kernel accesses"
            what = "only user mode is permitted, so kernel accesses to missing pages fail with EFAULT"
        else:
            blocked, what = "everything", "nothing can be served"
        commands = [one.command for one in self.obstacles if one.blocks == blocked]
        return f"{what}. To change it, one of: " + "; ".join(commands)

    @property
    def _attempts(self) -> Attempts:
        return Attempts(self.device, self.syscall, self.user_mode_only, self.fork_events, self.unprivileged_userfaultfd)

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
            ("fork events", "can be had" if self.fork_events == 0 else _attempt(self.fork_events)),
            ("vm.unprivileged_userfaultfd", str(sysctl) if sysctl >= 0 else "cannot be read"),
            ("features", names),
            *((f"{one.kind}, {one.mode}", one.refused or ", ".join(one.ioctls)) for one in self.memory),
            *(row for one in self.obstacles for row in _rows_of(one)),
            ("advice", _advice(self)),
        ]


def _rows_of(obstacle: Obstacle) -> list[tuple[str, str]]:
    return [(f"no {obstacle.blocks}", obstacle.reason), ("  to change it", obstacle.command)]


def _advice(found: Probe) -> str:
    if not found.usable:
        return "nothing can be served: see above what to change"
    if not found.full:
        return "programs can be served, but their system calls on missing pages cannot: see above what to change"
    if found.fork_events:
        return "none: everything can be served except forks of targets"
    return "none: everything can be served"


def _attempt(error: int) -> str:
    return f"refused: {os.strerror(error)}" if error else "can be opened"


def _device_access() -> str:
    try:
        status = DEVICE.stat()
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
    """Find out what this kernel supports and what this user may do.

    ``probe()`` opens userfaultfds and closes them again. It never raises.

    Args:
        fresh: Find the release generation by experiment. This takes some seconds, and up to 256 MiB in child processes.
            The result is kept for this boot in ``~/.cache/pyuffd``, for every later ``probe()`` and ``serve()`` of this
            user. Without ``fresh``, ``probe()`` returns the result that was kept in this boot. If there is none, the
            kernel's version decides.
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
        fork_events=found["fork_events"],
        unprivileged_userfaultfd=found["unprivileged_userfaultfd"],
        features=features,
        memory=memory_kinds(features, not full) if usable else (),
        circumstances=circumstances(),
    )
