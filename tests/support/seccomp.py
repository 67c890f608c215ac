"""Forbids system calls to this process, as a container's profile does."""

import ctypes
import platform
import struct
from typing import Literal

from support.child import become_nobody

_CALLS = {
    "userfaultfd": {"x86_64": 323, "aarch64": 282},
    "sched_setscheduler": {"x86_64": 144, "aarch64": 119},
}
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of BPF
_SECCOMP_ERRNO, _SECCOMP_ALLOW = 0x00050000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def forbid(call: Literal["userfaultfd", "sched_setscheduler"], number: int) -> None:
    """Become nobody, under a filter that answers a system call with this errno."""
    lines = [
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 1, _CALLS[call][platform.machine()]),
        (_RETURN, 0, 0, _SECCOMP_ERRNO | number),
        (_RETURN, 0, 0, _SECCOMP_ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    described = ctypes.create_string_buffer(struct.pack("HL", len(lines), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    become_nobody()
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _FILTER, described, 0, 0) == 0, ctypes.get_errno()
