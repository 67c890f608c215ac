"""Options of the test run: its header, what tests may require, and the shared huge pages."""

import contextlib
import faulthandler
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pyuffd
from pyuffd import _core

if TYPE_CHECKING:
    from support.kinds import Area, Kind
    from support.puppet import Puppet

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # for support: import-mode=importlib adds nothing

# A test that hangs may hold the GIL, so that no Python code can end it.
_HUNG_AFTER = 90.0
_STDERR: list[int] = []

_HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
_HUGE_PAGES_NEEDED = 4


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = pyuffd.probe()
    ways = "full" if found.full else "user mode only" if found.usable else "none"
    return [
        f"pyuffd {pyuffd.__version__} ({_core.build_type}), numpy {np.__version__}, Linux {found.kernel}, "
        f"{os.cpu_count()} CPUs, uid {os.getuid()}",
        f"userfaultfd: {ways}; release generation {found.release_generation}; "
        f"features {_core.feature_names(int(found.features))}",
    ]


def pytest_configure(config: pytest.Config) -> None:
    _STDERR.append(os.dup(2))  # before it is captured
    for name in _LACKS:
        config.addinivalue_line("markers", f"{name}: skipped, with the reason, where it is lacking")


def _lacks_full() -> str:
    return "" if pyuffd.probe().full else "this user may open no full userfaultfd (see pyuffd.probe())"


def _lacks_root() -> str:
    return "" if os.getuid() == 0 else "needs root"


def _lacks_poison() -> str:
    return "" if pyuffd.Feature.POISON in pyuffd.probe().features else "UFFDIO_POISON came with Linux 6.6"


def _lacks_hugetlb() -> str:
    free = _meminfo("HugePages_Free")
    if free >= _HUGE_PAGES_NEEDED or (os.getuid() == 0 and os.access(_HUGE_PAGES, os.W_OK)):
        return ""
    return "no hugetlb pages can be reserved (sysctl vm.nr_hugepages)"


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


_LACKS = {
    "requires_full_userfaultfd": _lacks_full,
    "requires_root": _lacks_root,
    "requires_poison": _lacks_poison,
    "requires_hugetlb": _lacks_hugetlb,
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Print every stack and exit when a test hangs; later than pytest-timeout where that is set for the test."""
    marked = item.get_closest_marker("timeout")
    limit = float(marked.args[0]) + 20 if marked and marked.args else _HUNG_AFTER
    faulthandler.dump_traceback_later(limit, exit=True, file=_STDERR[0])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.stem not in ("test_codebase", "test_probe") and not pyuffd.probe().usable:
        pytest.skip(pyuffd.probe().advice)
    for name, lacks in _LACKS.items():
        if item.get_closest_marker(name) and (reason := lacks()):
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PYUFFD_REQUIRE=1 a skip is a failure, unless its reason stands in ci_lacks.txt."""
    report = yield
    if report.skipped and os.environ.get("PYUFFD_REQUIRE") == "1" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in _allowed_reasons():
            report.outcome = "failed"
            report.longrepr = f"PYUFFD_REQUIRE=1, but skipped: {reason}\nAllowed reasons stand in tests/ci_lacks.txt."
    return report


def _allowed_reasons() -> set[str]:
    lines = (TESTS / "ci_lacks.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Reserve a few pages of the default hugetlb pool, and give them back."""
    before = int(_HUGE_PAGES.read_text())
    if _meminfo("HugePages_Free") < _HUGE_PAGES_NEEDED:
        with contextlib.suppress(OSError):
            _HUGE_PAGES.write_text(str(before + _HUGE_PAGES_NEEDED))
    try:
        if _meminfo("HugePages_Free") < _HUGE_PAGES_NEEDED:
            pytest.skip("no hugetlb pages can be reserved (sysctl vm.nr_hugepages)")
        yield
    finally:
        with contextlib.suppress(OSError):
            _HUGE_PAGES.write_text(str(before))


@pytest.fixture(scope="session", autouse=True)
def _guard() -> None:
    """Start this process's guard, whose descriptors stay open, before a test counts descriptors."""
    if not pyuffd.probe().usable:
        return
    ours, theirs = socket.socketpair()
    memory = pyuffd.Mapping(_core.page_size())
    region = (memory.address, memory.length, 0, memory.page_size)
    command = [sys.executable, "-S", "-c", "input()"]
    with ours, theirs, subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        pyuffd.handoff.send(theirs, pyuffd.Userfaultfd(), [region])
        got = pyuffd.handoff.receive(ours, pyuffd.ZeroSource())
        pyuffd.serve(got.uffd, got.regions, pid=other.pid).close("zero")
        other.kill()


@pytest.fixture(scope="session")
def first_puppet() -> Iterator["Puppet"]:
    """The process that all others are forked from, which is faster than to start them."""
    from support.puppet import Puppet

    with Puppet.start() as first:
        yield first


@pytest.fixture
def puppet(first_puppet: "Puppet") -> Iterator["Puppet"]:
    """A target process for one test."""
    with first_puppet.fork() as forked:
        yield forked
    with contextlib.suppress(ChildProcessError):  # the test has reaped it
        first_puppet.do("reap", forked.pid)


@pytest.fixture
def map_kind(request: pytest.FixtureRequest) -> "Callable[[Kind], Area]":
    """Map memory of a kind in the puppet."""
    from support.kinds import Area, Kind

    def map_(kind: Kind) -> Area:
        if kind.huge:
            request.getfixturevalue("huge_pages")
        return Area(request.getfixturevalue("puppet"), kind)

    return map_
