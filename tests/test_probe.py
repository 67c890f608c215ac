"""probe(): what this kernel and this user may do, and what to change."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.child import become_nobody, run_child, tell
from support.memory import Managed
from support.seccomp import forbid

import pyuffd
from pyuffd import Feature, LostWakes, MemoryKind, Probe, Release, _core
from pyuffd._circumstances import Circumstances

NOBODY = Circumstances(
    user="nobody",
    python="/usr/bin/python3",
    kernel_has_device=True,
    device_mode_permits=False,
    in_user_namespace=False,
    seccomp_filter=False,
    selinux_enforces=False,
)
ALL = Probe(
    kernel="6.18.44",
    release=Release("retry", "version"),
    page_size=4096,
    hugetlb_page_size=2 << 20,
    device=0,
    device_access="crw------- root root",
    syscall=0,
    user_mode_only=0,
    fork_events=0,
    unprivileged_userfaultfd=0,
    features=Feature.POISON | Feature.MOVE,
    memory=(
        MemoryKind("anonymous", "missing", ("WAKE", "COPY"), ""),
        MemoryKind("anonymous", "minor", (), "Invalid argument"),
    ),
    circumstances=NOBODY,
)
UNPRIVILEGED = replace(ALL, device=errno.EACCES, syscall=errno.EPERM, fork_events=errno.EPERM)
SECCOMP = replace(
    UNPRIVILEGED,
    user_mode_only=errno.EPERM,
    features=Feature(0),
    circumstances=replace(NOBODY, seccomp_filter=True),
)
NO_KERNEL = replace(
    ALL,
    device=errno.ENOENT,
    syscall=errno.ENOSYS,
    user_mode_only=errno.ENOSYS,
    features=Feature(0),
    unprivileged_userfaultfd=-1,
    hugetlb_page_size=0,
    circumstances=replace(NOBODY, kernel_has_device=False),
)


def test_what_is_found_here() -> None:
    found = pyuffd.probe()
    assert found == pyuffd.probe()
    assert found.kernel == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert found.release_generation in ("sigbus", "nopage", "retry")
    assert found.page_size == _core.page_size()
    sysctl = Path("/proc/sys/vm/unprivileged_userfaultfd")
    assert found.unprivileged_userfaultfd == (int(sysctl.read_text()) if sysctl.exists() else -1)
    assert found.usable == bool(found.features)
    assert (found.usable, {one.kind for one in found.memory}) in (
        (True, {"anonymous", "memfd shared", "memfd private", "hugetlb"}),
        (False, set()),
    )


def test_the_table() -> None:
    lines = str(ALL).splitlines()
    assert len(lines) == 17 + len(ALL.wake_up.advice)
    table = {line[:28].strip(): line[29:] for line in lines}
    assert table["kernel"] == "Linux 6.18.44"
    assert table["release generation"] == "retry (by version)"
    assert table["an early close"] == "safe"
    assert table["UNREGISTER without WAKE"].startswith("not counted")
    assert table["anonymous, missing"] == "WAKE, COPY"
    assert table["anonymous, minor"] == "Invalid argument"
    assert table["page size"] == "4096 bytes"
    assert table["hugetlb page size"] == "2097152 bytes"
    assert table["/dev/userfaultfd"] == "can be opened (crw------- root root)"
    assert table["userfaultfd(2)"] == "can be opened"
    assert table["user mode only"] == "can be opened"
    assert table["fork events"] == "can be had"
    assert table["vm.unprivileged_userfaultfd"] == "0"
    assert table["features"] == "POISON, MOVE"
    assert table["advice"] == "none: everything can be served"
    nothing = str(NO_KERNEL)
    assert "refused: Function not implemented" in nothing
    assert "cannot be read" in nothing
    assert str(SECCOMP).count("refused: ") == 4
    unprivileged = str(UNPRIVILEGED).splitlines()
    assert "  to change it               sudo sysctl vm.unprivileged_userfaultfd=1" in unprivileged


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
            ["only user mode is permitted", "/dev/userfaultfd", "vm.unprivileged_userfaultfd", "cap_sys_ptrace"],
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


def probe_as_nobody() -> None:
    become_nobody()
    found = pyuffd.probe()
    tell([found.user_mode_only, found.usable, found.device, bool(found.features)])


@pytest.mark.requires_root
def test_an_unprivileged_user() -> None:
    user_mode_only, usable, device, features = run_child(probe_as_nobody)
    assert (user_mode_only, usable, features) == (0, True, True)
    assert device in (0, errno.EACCES, errno.ENOENT)


def probe_where_it_is_forbidden(number: int) -> None:
    forbid("userfaultfd", number)
    found = pyuffd.probe()
    tell([found.syscall, found.user_mode_only, found.usable, found.advice])
    try:
        pyuffd.Userfaultfd(user_mode_only=True)
    except pyuffd.UnsupportedError as error:
        tell(str(error))
    str(found)


@pytest.mark.requires_root
@pytest.mark.parametrize(("number", "part"), [(errno.EPERM, "seccomp"), (errno.ENOSYS, "seccomp")])
def test_where_the_system_call_is_forbidden(number: int, part: str) -> None:
    """As under a container's default seccomp profile: the import works and the probe says what to change."""
    (syscall, user_mode_only, usable, advice), refusal = run_child(probe_where_it_is_forbidden, number)
    assert (syscall, user_mode_only, usable) == (number, number, False)
    assert part in advice
    assert "seccomp" in refusal


def experiment(cache: str) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    tell([pyuffd.probe().release.found_by, pyuffd.probe().release.generation])
    fresh = pyuffd.probe(fresh=True).release
    tell([fresh.found_by, fresh.generation, fresh.reason, pyuffd.probe().release == fresh])
    with Managed(pages=2).serve() as target:
        tell(target.close("fill").reason)


def test_the_experiment_is_kept_for_this_boot(tmp_path: Path) -> None:
    before, (found_by, generation, reason, kept), ending = run_child(experiment, tmp_path)
    assert before[0] == "version"
    assert generation in ("sigbus", "nopage", "retry")
    if found_by == "version":
        assert reason
        assert generation == before[1]
    else:
        assert kept
        assert "(by experiment)" in ending


def serve_by_experiment(cache: str) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    release = pyuffd.probe().release
    assert release.lost_wakes is not None
    with Managed(pages=2).serve() as target:
        report = target.close("fill")
    tell([release.found_by, release.generation, release.rounds, [release.lost_wakes.rounds, release.lost_wakes.lost]])
    tell([report.ending, report.reason])


@pytest.mark.parametrize(
    ("generation", "ending", "reason"),
    [("retry", "early-close", "nobody else"), ("nopage", "unregister", "livelock"), ("sigbus", "unregister", "SIGBUS")],
)
def test_auto_believes_the_experiment(tmp_path: Path, generation: str, ending: str, reason: str) -> None:
    write_cache(tmp_path, f"{boot()}\n{generation} 3 1\n100 2\n")
    known, report = run_child(serve_by_experiment, tmp_path)
    assert known == ["experiment", generation, 3, [100, 2]]
    assert report[0] == ending
    assert f"{generation} (by experiment)" in report[1]
    assert reason in report[1]


def write_cache(folder: Path, text: str, mode: int = 0o600) -> None:
    file = folder / "pyuffd" / "release-generation"
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(mode)


def boot() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.uname().release}"


def how_it_was_found(cache: str) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    tell(pyuffd.probe().release.found_by)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("another boot\nsigbus 3 1\n", 0o600),
        ("{boot}\nsigbus 3 1\n", 0o666),
        ("{boot}\nsigbus 3 1\n", 0o620),
        ("{boot}\n", 0o600),
        ("{boot}\nsometimes 3 1\n", 0o600),
        ("{boot}\nsigbus many\n", 0o600),
        ("", 0o600),
    ],
    ids=["another-boot", "writable-by-all", "writable-by-group", "empty", "generation", "rounds", "nothing"],
)
def test_what_is_not_believed(tmp_path: Path, text: str, mode: int) -> None:
    write_cache(tmp_path, text.format(boot=boot()), mode)
    assert run_child(how_it_was_found, tmp_path) == "version"


def experiment_without_a_cache() -> None:
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ["HOME"] = "relative"
    tell([pyuffd.probe(fresh=True).release.generation, pyuffd.probe().release.found_by])


def test_no_place_for_the_cache() -> None:
    generation, found_by = run_child(experiment_without_a_cache)
    assert (generation in ("sigbus", "nopage", "retry"), found_by) == (True, "version")


def command(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyuffd", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path(pyuffd.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command(tmp_path: Path) -> None:
    done = command("probe", cache=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "release generation" in done.stdout
    found = json.loads(command("probe", "--json", cache=tmp_path).stdout)
    assert found["release"]["generation"] in done.stdout
    assert (found["release"]["found_by"] == "experiment") == (tmp_path / "pyuffd" / "release-generation").exists()
    assert found["device"] is None or isinstance(found["device"], str)
    assert "MISSING_SHMEM" in found["features"]
    assert {"kind", "mode", "ioctls", "refused"} == set(found["memory"][0])
    fresh = json.loads(command("probe", "--fresh", "--json", cache=tmp_path).stdout)
    assert fresh["release"]["generation"] == found["release"]["generation"]
    assert fresh["release"]["lost_wakes"]["rounds"] > 0


def test_the_command_without_a_command(tmp_path: Path) -> None:
    done = command(cache=tmp_path)
    assert done.returncode == 2
    assert "usage: pyuffd" in done.stderr
    assert command("--version", cache=tmp_path).stdout == f"pyuffd {pyuffd.__version__}\n"


def experiment_where_it_is_forbidden(cache: str) -> None:
    forbid("userfaultfd", errno.EPERM)
    os.environ["XDG_CACHE_HOME"] = cache
    release = pyuffd.probe(fresh=True).release
    tell([release.found_by, release.reason, release.lost_wakes])


@pytest.mark.requires_root
def test_the_experiment_where_no_userfaultfd_can_be_opened(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    found_by, reason, lost_wakes = run_child(experiment_where_it_is_forbidden, tmp_path)
    assert (found_by, lost_wakes) == ("version", None)
    assert "userfaultfd cannot be opened" in reason


def test_texts_of_a_release() -> None:
    seen = Release("nopage", "experiment", rounds=3, minor_faults=25_000, lost_wakes=LostWakes(1000, 2))
    assert str(seen) == "nopage (by experiment: 3 of 3 rounds; at most 25000 minor faults in one)"
    assert "livelocks" in seen.early_close
    assert seen.lost_wakes_text == "loses wake-ups: 2 in 1,000 rounds"
    unseen = Release("retry", "version", reason="one CPU", lost_wakes=LostWakes(1000, 0))
    assert str(unseen) == "retry (by version: one CPU)"
    assert "no proof" in unseen.lost_wakes_text
