"""What keeps a user from userfaultfd is told apart, with the command that changes it."""

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import child

import pyuffd
from pyuffd._circumstances import Circumstances
from pyuffd._obstacles import Attempts, Obstacle, obstacles

PLAIN = Circumstances(
    user="ann",
    python="/usr/bin/python3",
    kernel_has_device=True,
    device_mode_permits=False,
    in_user_namespace=False,
    seccomp_filter=False,
    selinux_enforces=False,
)
REFUSED = Attempts(
    device=errno.EACCES, syscall=errno.EPERM, user_mode_only=0, fork_events=errno.EPERM, sysctl=0
)  # fmt: skip
NOTHING = replace(REFUSED, user_mode_only=errno.EPERM)


def told(attempts: Attempts, found: Circumstances) -> list[tuple[str, str]]:
    return [(one.kind, one.blocks) for one in obstacles(attempts, found)]


def of_kind(kind: str, attempts: Attempts, found: Circumstances) -> Obstacle:
    (one,) = {one for one in obstacles(attempts, found) if one.kind == kind and one.blocks != "fork events"}
    return one


def test_an_ordinary_user_may_choose_between_three_commands() -> None:
    assert told(REFUSED, PLAIN) == [
        ("device", "kernel accesses"),
        ("sysctl", "kernel accesses"),
        ("capability", "kernel accesses"),
        ("capability", "fork events"),
    ]
    commands = [one.command for one in obstacles(REFUSED, PLAIN)]
    assert commands == [
        "sudo setfacl -m u:ann:rw /dev/userfaultfd",
        "sudo sysctl vm.unprivileged_userfaultfd=1",
        "sudo setcap cap_sys_ptrace+ep /usr/bin/python3",
        "sudo setcap cap_sys_ptrace+ep /usr/bin/python3",
    ]


def test_what_can_be_done_is_no_obstacle() -> None:
    assert told(Attempts(0, 0, 0, 0, 0), PLAIN) == []
    assert told(Attempts(errno.ENOENT, 0, 0, 0, 1), PLAIN) == []
    assert told(Attempts(0, errno.EPERM, 0, errno.EPERM, 0), PLAIN) == [("capability", "fork events")]


def test_a_kernel_without_userfaultfd() -> None:
    attempts = Attempts(errno.ENOENT, errno.ENOSYS, errno.ENOSYS, errno.ENOSYS, -1)
    assert told(attempts, replace(PLAIN, kernel_has_device=False)) == [("kernel", "everything")]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_seccomp_filter(error: int) -> None:
    attempts = replace(NOTHING, syscall=error, user_mode_only=error)
    found = replace(PLAIN, seccomp_filter=True)
    assert told(attempts, found) == [("seccomp", "everything"), ("device", "everything")]
    assert "seccomp filter" in of_kind("seccomp", attempts, found).reason
    assert "--security-opt seccomp=" in of_kind("seccomp", attempts, found).command


def test_selinux_that_forbids_the_call() -> None:
    attempts = replace(NOTHING, syscall=errno.EACCES, user_mode_only=errno.EACCES)
    one = of_kind("selinux", attempts, replace(PLAIN, selinux_enforces=True))
    assert "SELinux" in one.reason
    assert "semodule" in one.command


@pytest.mark.parametrize(
    ("error", "found", "kind", "reason", "command"),
    [
        (errno.EACCES, {}, "device", "does not permit the user ann", "setfacl"),
        (errno.EACCES, {"device_mode_permits": True, "selinux_enforces": True}, "selinux", "SELinux does not", "avc"),
        (errno.EACCES, {"device_mode_permits": True}, "device", "nodev", "remount,dev"),
        (errno.ENOENT, {}, "device", "not in this container", "--device /dev/userfaultfd"),
        (errno.EPERM, {}, "device", "device cgroup", "--device /dev/userfaultfd"),
        (errno.ENOENT, {"kernel_has_device": False}, "device", "Linux 6.1", "install Linux 6.1"),
    ],
)
def test_the_device(error: int, found: dict[str, bool], kind: str, reason: str, command: str) -> None:
    one = of_kind(kind, replace(REFUSED, device=error), replace(PLAIN, **found))  # type: ignore[arg-type]
    assert reason in one.reason
    assert command in one.command


def test_a_user_namespace_has_capabilities_that_do_not_count() -> None:
    found = replace(PLAIN, in_user_namespace=True)
    assert ("user-namespace", "fork events") in told(REFUSED, found)
    assert "--userns=host" in of_kind("user-namespace", REFUSED, found).command
    assert "on the host" in of_kind("sysctl", REFUSED, found).command


# Below, on this system. A child prints what it finds.

_CLONE_NEWNS, _CLONE_NEWUSER, _MS_PRIVATE_REC = 0x20000, 0x10000000, 0x44000
_libc = ctypes.CDLL(None, use_errno=True)


def in_child(change: Callable[[], None]) -> str:
    """What ``probe()`` prints in a fork child, after a change to the child alone."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            change()
            os.write(writer, str(pyuffd.probe()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def hide_the_device() -> None:
    checked(_libc.unshare(_CLONE_NEWNS))
    checked(_libc.mount(b"none", b"/", None, _MS_PRIVATE_REC, None))
    checked(_libc.mount(b"tmpfs", b"/dev", b"tmpfs", 0, None))
    child.become_nobody()


@pytest.mark.requires_root
def test_nobody_is_told_the_commands() -> None:
    text = in_child(child.become_nobody)
    if "no kernel accesses" not in text:
        assert pyuffd.probe().unprivileged_userfaultfd == 1
        return
    assert "sudo sysctl vm.unprivileged_userfaultfd=1" in text
    assert "no fork events" in text


@pytest.mark.requires_root
def test_a_device_that_is_not_in_the_container() -> None:
    if not Path("/dev/userfaultfd").exists():
        pytest.skip("/dev/userfaultfd came with Linux 6.1")
    text = in_child(hide_the_device)
    assert "not in this container or chroot" in text


@pytest.mark.requires_root
def test_root_of_a_user_namespace() -> None:
    text = in_child(lambda: checked(_libc.unshare(_CLONE_NEWUSER)))
    assert "capabilities of a user namespace" in text


def test_errors_say_what_they_need() -> None:
    with pytest.raises(pyuffd.UnsupportedError, match="unknown bits") as unknown:
        pyuffd.Userfaultfd(1 << 40)
    assert unknown.value.needs == ()
    assert pyuffd.UnsupportedError(1, "text").needs == ()


def needs_of_refusals() -> None:
    child.become_nobody()
    access: dict[str, Any] = {"user_mode_only": False}
    for arguments in (access, {"features": pyuffd.Feature.EVENT_FORK}):
        try:
            pyuffd.Userfaultfd(**arguments)
        except pyuffd.UnsupportedError as error:
            child.tell(error.needs)
        else:
            child.tell("permitted")


@pytest.mark.requires_root
def test_a_refused_userfaultfd_needs_what_the_probe_tells() -> None:
    access, fork = child.run_child(needs_of_refusals)
    assert fork == ["CAP_SYS_PTRACE"]
    assert access in ("permitted", ["/dev/userfaultfd", "vm.unprivileged_userfaultfd=1", "CAP_SYS_PTRACE"])
