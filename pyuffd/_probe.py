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
from pyuffd._wake_up import WakeUp, wake_up


@dataclass(frozen=True)
class Probe:
    """The result of ``probe()``. ``print()`` shows it as a table.

    Attributes:
        kernel: The running kernel, as ``uname -r`` prints it.
        release: What this kernel does when a fault meets a userfaultfd that is being released, and how this was found.
        page_size: The base page size in bytes.
        hugetlb_page_size: The page size of the default hugetlb pool in bytes; 0 if there is no such pool.
        device: 0 if ``/dev/userfaultfd`` can be opened, and the errno otherwise.
        device_access: The mode and the owners of the device, such as ``"crw------- root root"``; empty if there is no
            device.
        syscall: 0 if userfaultfd(2) succeeds, and the errno otherwise.
        user_mode_only: The same for userfaultfd(2) with ``UFFD_USER_MODE_ONLY``.
        fork_events: The same for the feature EVENT_FORK.
        unprivileged_userfaultfd: The sysctl ``vm.unprivileged_userfaultfd``; -1 if it cannot be read.
        features: The features that ``UFFDIO_API`` offers; empty if no userfaultfd can be opened.
        memory: The supported ioctls of each kind of memory in each mode; empty if no userfaultfd can be opened.
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
        """Whether a userfaultfd can be opened that serves kernel accesses too (read(2) into a missing page, KVM)."""
        return self._attempts.full

    @cached_property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """What this user is not permitted to do, and the command that permits it; empty if all is permitted."""
        return obstacles(self._attempts, self.circumstances)

    @property
    def wake_up(self) -> WakeUp:
        """What it costs to wake a thread on an idle CPU; measured at the first call, in some milliseconds."""
        return wake_up()

    @property
    def advice(self) -> str:
        """What to change so that kernel accesses can be served too; empty if they can be served."""
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
            ("wake-up of an idle CPU", str(self.wake_up)),
            ("  kept awake", self.wake_up.awake),
            *(("  to make faults faster", command) for command in self.wake_up.advice),
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
    """Find out what this kernel supports and what this user is permitted to do. Never raises.

    Args:
        fresh: Whether to find the release generation by experiment. The experiment takes some seconds, and up to 256
            MiB in child processes. Its result is kept for this boot in ``~/.cache/pyuffd``, for every later ``probe()``
            and ``serve()`` of this user. Without ``fresh`` the result is that of an earlier experiment in this boot, or
            follows from the kernel's version.
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
