"""What keeps this user from opening a userfaultfd, and the command that changes it."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pyuffd._circumstances import Circumstances

ObstacleKind = Literal["kernel", "seccomp", "selinux", "device", "sysctl", "capability", "user-namespace"]
Blocked = Literal["everything", "kernel accesses", "fork events"]


@dataclass(frozen=True)
class Obstacle:
    """One thing in the way. To take one away of those that block the same is enough.

    Attributes:
        kind: Where it lies.
        blocks: What it keeps this user from: any userfaultfd; one that serves kernel accesses too; or the feature
            EVENT_FORK.
        reason: What stands in the way.
        command: The command, or the setting, that changes it.
    """

    kind: ObstacleKind
    blocks: Blocked
    reason: str
    command: str


@dataclass(frozen=True)
class Attempts:
    """How each way of opening went: 0, or the errno with which it was refused.

    Attributes:
        device: ``/dev/userfaultfd``.
        syscall: userfaultfd(2).
        user_mode_only: userfaultfd(2) with ``UFFD_USER_MODE_ONLY``.
        fork_events: The feature EVENT_FORK, of whichever could be opened.
        sysctl: ``vm.unprivileged_userfaultfd``, -1 where the kernel has none.
    """

    device: int
    syscall: int
    user_mode_only: int
    fork_events: int
    sysctl: int

    @property
    def usable(self) -> bool:
        """Whether any way is open."""
        return 0 in (self.device, self.syscall, self.user_mode_only)

    @property
    def full(self) -> bool:
        """Whether a way is open that serves kernel accesses too."""
        return 0 in (self.device, self.syscall)


def obstacles(attempts: Attempts, found: Circumstances) -> tuple[Obstacle, ...]:
    """Tell all of them, the ones that block most first."""
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
    """Tell what refuses userfaultfd(2) even in user mode, which the kernel itself permits everybody."""
    if error == errno.EACCES:
        return _of_selinux("SELinux does not let this domain make a userfaultfd", "everything")
    by = "a seccomp filter" if found.seccomp_filter else "a security module"
    return Obstacle(
        "seccomp",
        "everything",
        f"{by} forbids userfaultfd(2); the default profile of containers does",
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
        return _of_selinux("/dev/userfaultfd permits this user, and SELinux does not", blocks)
    if found.device_mode_permits:
        reason = "/dev/userfaultfd permits this user, but lies on a mount without devices (nodev)"
        return Obstacle("device", blocks, reason, "sudo mount -o remount,dev /dev")
    return Obstacle(
        "device",
        blocks,
        f"/dev/userfaultfd does not permit the user {found.user} to read and write (a udev rule keeps what is changed)",
        f"sudo setfacl -m u:{found.user}:rw /dev/userfaultfd",
    )


def _of_call(attempts: Attempts, found: Circumstances) -> Iterator[Obstacle]:
    """Tell what refuses userfaultfd(2) for kernel accesses, where it is permitted in user mode."""
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
            "initial one",
            "run the container as root, with docker run --userns=host --cap-add SYS_PTRACE",
        )
    return Obstacle(
        "capability",
        blocks,
        "this process lacks CAP_SYS_PTRACE (setcap gives it to all who run this interpreter; in a container: "
        "docker run --cap-add SYS_PTRACE)",
        f"sudo setcap cap_sys_ptrace+ep {found.python}",
    )
