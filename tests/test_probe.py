"""probe(): what this kernel and this user may do, and what to change."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from faulting import run_child

import pyuffd
from pyuffd import Feature, Probe, _core

ALL = Probe(
    kernel="6.18.44",
    release_generation="retry",
    page_size=4096,
    hugetlb_page_size=2 << 20,
    device=0,
    syscall=0,
    user_mode_only=0,
    unprivileged_userfaultfd=0,
    features=Feature.POISON | Feature.MOVE,
)
UNPRIVILEGED = replace(ALL, device=errno.EACCES, syscall=errno.EPERM)
SECCOMP = replace(UNPRIVILEGED, user_mode_only=errno.EPERM, features=Feature(0))
NO_KERNEL = replace(
    ALL, device=errno.ENOENT, syscall=errno.ENOSYS, user_mode_only=errno.ENOSYS, features=Feature(0),
    unprivileged_userfaultfd=-1, hugetlb_page_size=0,
)  # fmt: skip


def test_what_is_found_here() -> None:
    found = pyuffd.probe()
    assert found == pyuffd.probe()
    assert found.kernel == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert found.release_generation in ("sigbus", "nopage", "retry")
    assert found.page_size == _core.page_size()
    sysctl = Path("/proc/sys/vm/unprivileged_userfaultfd")
    assert found.unprivileged_userfaultfd == (int(sysctl.read_text()) if sysctl.exists() else -1)
    assert found.usable == bool(found.features)


def test_the_table() -> None:
    lines = str(ALL).splitlines()
    assert len(lines) == 10
    table = {line[:28].strip(): line[29:] for line in lines}
    assert table["kernel"] == "Linux 6.18.44"
    assert table["release generation"] == "retry (by version)"
    assert table["page size"] == "4096 bytes"
    assert table["hugetlb page size"] == "2097152 bytes"
    assert table["/dev/userfaultfd"] == "can be opened"
    assert table["userfaultfd(2)"] == "can be opened"
    assert table["user mode only"] == "can be opened"
    assert table["vm.unprivileged_userfaultfd"] == "0"
    assert table["features"] == "POISON, MOVE"
    assert table["advice"] == "none: everything can be served"
    nothing = str(NO_KERNEL)
    assert "refused: Function not implemented" in nothing
    assert "cannot be read" in nothing
    assert str(SECCOMP).count("refused: ") == 3


@pytest.mark.parametrize(
    ("found", "usable", "full", "parts"),
    [
        (ALL, True, True, []),
        (replace(ALL, device=errno.ENOENT), True, True, []),
        (replace(ALL, syscall=errno.EPERM), True, True, []),
        (
            UNPRIVILEGED,
            True,
            False,
            ["user_mode_only=True", "/dev/userfaultfd", "vm.unprivileged_userfaultfd", "CAP_SYS_PTRACE"],
        ),
        (SECCOMP, False, False, ["nothing can be served", "seccomp"]),
        (NO_KERNEL, False, False, ["nothing can be served", "CONFIG_USERFAULTFD"]),
    ],
    ids=["all", "no-device", "device-only", "unprivileged", "seccomp", "no-kernel"],
)
def test_advice(found: Probe, usable: bool, full: bool, parts: list[str]) -> None:
    assert (found.usable, found.full) == (usable, full)
    assert bool(found.advice) == bool(parts)
    for part in parts:
        assert part in found.advice


def test_flags_have_the_names_and_values_of_the_kernel() -> None:
    for feature in Feature:
        assert _core.feature_names(int(feature)) == feature.name
    assert _core.feature_names(0) == "none"
    assert _core.feature_names(1 << 40) == f"unknown bits {1 << 40}"


@pytest.mark.requires_root
def test_an_unprivileged_user() -> None:
    code = """
become_nobody()
found = pyuffd.probe()
tell([found.user_mode_only, found.usable, found.device, bool(found.features)])
"""
    user_mode_only, usable, device, features = run_child(code)
    assert (user_mode_only, usable, features) == (0, True, True)
    assert device in (0, errno.EACCES, errno.ENOENT)


SECCOMP_FILTER = """
import ctypes, platform, struct
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
BPF_LD, BPF_JEQ, BPF_RET = 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *line) for line in [
    (BPF_LD, 0, 0, 0),
    (BPF_JEQ, 0, 1, number),
    (BPF_RET, 0, 0, 0x00050000 | int(sys.argv[1])),
    (BPF_RET, 0, 0, 0x7FFF0000),
])
buffer = ctypes.create_string_buffer(program)
fprog = ctypes.create_string_buffer(struct.pack("HL", 4, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
become_nobody()
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, fprog, 0, 0) == 0, ctypes.get_errno()
"""


@pytest.mark.requires_root
@pytest.mark.parametrize(("number", "part"), [(errno.EPERM, "seccomp"), (errno.ENOSYS, "CONFIG_USERFAULTFD")])
def test_where_the_system_call_is_forbidden(number: int, part: str) -> None:
    """As under a container's default seccomp profile: the import works and the probe says what to change."""
    code = """
found = pyuffd.probe()
tell([found.syscall, found.user_mode_only, found.usable, found.advice])
try:
    pyuffd.Userfaultfd(user_mode_only=True)
except pyuffd.UnsupportedError as error:
    tell(str(error))
str(found)
"""
    (syscall, user_mode_only, usable, advice), refusal = run_child(SECCOMP_FILTER + code, number)
    assert (syscall, user_mode_only, usable) == (number, number, False)
    assert part in advice
    assert "seccomp" in refusal
