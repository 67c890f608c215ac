"""What prevents this user from opening a userfaultfd, and the commands that change it."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pyuffd._circumstances import Circumstances

ObstacleKind = Literal["kernel", "seccomp", "selinux", "device", "sysctl", "capability", "user-namespace"]
Blocked = Literal["everything", "kernel accesses", "fork events"]


@dataclass(frozen=True)
class Obstacle:
    """One obstacle to the use of userfaultfd. Of the obstacles that block the same use, it is enough to remove one.

    Attributes:
        kind: The part of the system that has the obstacle.
        blocks: What this user cannot use: any userfaultfd (``"everything"``), a userfaultfd that serves kernel
            accesses, too, or the feature EVENT_FORK.
        reason: Why the use is blocked.
        command: The command, or the setting, that removes the obstacle.
    """

    kind: ObstacleKind
    blocks: Blocked
    reason: str
    command: str


@dataclass(frozen=True)
class Attempts:
    """The result of each way to open a userfaultfd: 0, or the errno of the refusal.

    Attributes:
        device: ``/dev/userfaultfd``.
        syscall: userfaultfd(2).
        user_mode_only: userfaultfd(2) with ``UFFD_USER_MODE_ONLY``.
        fork_events: The feature EVENT_FORK, on any userfaultfd that could be opened.
        sysctl: The value of ``vm.unprivileged_userfaultfd``. -1 if the kernel has no such sysctl.
    """

    device: int
    syscall: int
    user_mode_only: int
    fork_events: int
    sysctl: int

    @property
    def usable(self) -> bool:
        """Whether any way works."""
        return 0 in (self.device, self.syscall, self.user_mode_only)

    @property
    def full(self) -> bool:
        """Whether a way works that serves kernel accesses, too."""
        return 0 in (self.device, self.syscall)


def obstacles(attempts: Attempts, found: Circumstances) -> tuple[Obstacle, ...]:
    """Return all obstacles. Those that block most come first."""
    if attempts.syscall == errno.ENOSYS and attempts.sysctl < 0 and not found.kernel_has_device:
        reason = "this kernel was built without CONFIG_USERFAULTFD"
        return (Obstacle("kernel", "everything", reason, "install a kernel with CONFIG_USERFAULTFD=y"),)
    return tuple(_obstacles(attempts, found))


def _obstacles(attempts: Attempts, found: Circumstances) -> Iterator[Obstacle]:
    if not attempts.usable:
        yield _of_every_call(attempts.user_mode_only, found)
        yield _of_device(attempts.device, "everything", found)
    elif not attempts.full:
        yield _of_device(attempts.device, "kernel accesses", found)
        if attempts.user_mode_only == 0:
            yield from _of_call(attempts, found)
    if attempts.usable and attempts.fork_events:
        yield _of_capability("fork events", found)


def _of_every_call(error: int, found: Circumstances) -> Obstacle:
    """Return what refuses userfaultfd(2) even in user mode, which the kernel itself permits to all users."""
    if error == errno.EACCES:
        return _of_selinux("SELinux does not let this domain make a userfaultfd", "everything")
    by = "a seccomp filter" if found.seccomp_filter else "a security module"
    return Obstacle(
        "seccomp",
        "everything",
        f"{by} forbids userfaultfd(2), as the default profile of containers does",
        "docker run --security-opt seccomp=PROFILE.json, a profile that allows userfaultfd (or seccomp=unconfined); "
        "in a systemd service: SystemCallFilter=userfaultfd",
    )


def _of_selinux(reason: str, blocks: Blocked) -> Obstacle:
    command = "sudo ausearch -m avc -ts recent | audit2allow -M pyuffd && sudo semodule -i pyuffd.pp"
    return Obstacle("selinux", blocks, reason, command)


def _of_device(error: int, blocks: Blocked, found: Circumstances) -> Obstacle:
    in_container = "docker run --device /dev/userfaultfd"
    if not found.kernel_has_device:
        return Obstacle(
            "device", blocks, "this kernel has no /dev/userfaultfd, which came with Linux 6.1", "install Linux 6.1"
        )
    if error == errno.ENOENT:
        reason = "the kernel has /dev/userfaultfd, but it is not in this container or chroot"
        return Obstacle("device", blocks, reason, in_container)
    if error == errno.EPERM:
        reason = "the device cgroup of this container forbids /dev/userfaultfd"
        return Obstacle("device", blocks, reason, in_container)
    if found.device_mode_permits and found.selinux_enforces:
        return _of_selinux("the mode of /dev/userfaultfd permits this user, but SELinux does not", blocks)
    if found.device_mode_permits:
        reason = "the mode of /dev/userfaultfd permits this user, but the device is on a mount with the option nodev"
        return Obstacle("device", blocks, reason, "sudo mount -o remount,dev /dev")
    return Obstacle(
        "device",
        blocks,
        f"/dev/userfaultfd does not permit the user {found.user} to read and write (a udev rule can keep a change)",
        f"sudo setfacl -m u:{found.user}:rw /dev/userfaultfd",
    )


def _of_call(attempts: Attempts, found: Circumstances) -> Iterator[Obstacle]:
    """Return what refuses userfaultfd(2) for kernel accesses, if userfaultfd(2) is permitted in user mode."""
    if attempts.sysctl == 0:
        where = " (on the host)" if found.in_user_namespace else ""
        yield Obstacle(
            "sysctl",
            "kernel accesses",
            "the sysctl vm.unprivileged_userfaultfd is 0",
            f"sudo sysctl vm.unprivileged_userfaultfd=1{where}",
        )
    yield _of_capability("kernel accesses", found)


def _of_capability(blocks: Blocked, found: Circumstances) -> Obstacle:
    if found.in_user_namespace:
        return Obstacle(
            "user-namespace",
            blocks,
            "capabilities of a user namespace (a rootless container) do not count: CAP_SYS_PTRACE is needed in the "
            "initial user namespace",
            "run the container as root, with docker run --userns=host --cap-add SYS_PTRACE",
        )
    return Obstacle(
        "capability",
        blocks,
        "this process lacks CAP_SYS_PTRACE (setcap gives it to all users of this interpreter; in a container: "
        "docker run --cap-add SYS_PTRACE)",
        f"sudo setcap cap_sys_ptrace+ep {found.python}",
    )
