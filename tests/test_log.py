"""The logger "pyuffd": silent by default, and what an operator would want to know where somebody listens."""

import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.child import run_child, tell, words
from support.memory import PAGE, Managed
from support.puppet import Puppet
from support.state import LIMIT, until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd


class Kept(logging.Handler):
    """Keeps what it is told, as "LEVEL text"; may hold up the thread that tells."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.reports: list[pyuffd.EndingReport | None] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def emit(self, record: logging.LogRecord) -> None:
        if threading.current_thread().name == "pyuffd-log":
            self.may_go_on.wait(LIMIT)
        self.reports.append(getattr(record, "report", None))
        self.lines.append(f"{record.levelname} {record.getMessage()}")

    def wait_for(self, *parts: str) -> str:
        """The first line that has all of these parts."""
        until(lambda: self._line_with(parts) is not None)
        line = self._line_with(parts)
        assert line is not None
        return line

    def _line_with(self, parts: tuple[str, ...]) -> str | None:
        return next((line for line in list(self.lines) if all(part in line for part in parts)), None)


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = logging.getLogger("pyuffd")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    handler.may_go_on.set()
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_target_is_added_and_ends_with_its_report(kept: Kept) -> None:
    with Managed(pages=8).serve() as target:
        name = f"target {target.id}:"
        assert kept.wait_for(name, "added") == f"INFO {name} added: 8 pages of this process"
        target.fill()
    report = target.close()
    line = kept.wait_for(name, "ended")
    assert line.startswith(f"INFO {name} ended by {report.ending} ({report.reason}) in ")
    assert line.endswith(", 0 pages missing")
    assert target.report == report
    assert report in kept.reports


def test_pages_left_missing_are_a_warning(kept: Kept) -> None:
    target = Managed(pages=8).serve()
    target.close(missing="zero")
    assert kept.wait_for(f"target {target.id}: ended").startswith("WARNING")
    assert kept.wait_for(f"target {target.id}: ended").endswith(", 8 pages missing")


@pytest.mark.requires_poison
def test_poisoned_pages_with_their_cause_and_as_one_range(kept: Kept, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(range(256)) * 16 * 8)
    memory = Managed(pages=8)
    region = memory.region(source=pyuffd.FileSource(str(image)))
    with pyuffd.serve(pyuffd.Userfaultfd(), [region]) as target:
        os.truncate(image, 3 * PAGE)
        target.fill()
        target.wait(LIMIT)
    line = kept.wait_for(f"target {target.id}: poisoned")
    start = memory.at(3)
    assert line == (
        f"WARNING target {target.id}: poisoned 5 pages at {start:#x}-{start + 5 * PAGE:#x}: "
        "the source cannot be read there"
    )


@pytest.mark.requires_poison
def test_what_a_close_poisons(kept: Kept) -> None:
    target = Managed(pages=8).serve()
    target.close(missing="poison")
    assert "8 pages" in kept.wait_for(f"target {target.id}: poisoned", "missing='poison'")


def failing(offset: int, length: int) -> bytes:
    raise ValueError("no bytes")


def never(offset: int, length: int) -> bytes:
    RELEASED.wait(LIMIT)
    return bytes(length)


RELEASED = threading.Event()


@pytest.mark.requires_poison
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("function", "deadline", "cause"),
    [(failing, None, "gave too few bytes"), (never, 0.05, "within its deadline")],
    ids=["failing", "late"],
)
def test_sources_that_do_not_answer(
    kept: Kept,
    puppet: Puppet,
    function: Callable[[int, int], bytes],
    deadline: float | None,
    cause: str,
) -> None:
    memory = puppet.do("map", PAGE, "anonymous")
    RELEASED.clear()
    source = pyuffd.CallableSource(function, PAGE, deadline=deadline)
    got = puppet.hand_over([(memory, PAGE, 0, PAGE)], source)
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
        assert f"of process {puppet.pid}" in kept.wait_for(f"target {target.id}: added")
        target.fill()
        kept.wait_for(f"target {target.id}: poisoned 1 page at {memory:#x}", cause)
        RELEASED.set()


def test_threads_that_were_left_asleep(kept: Kept, puppet: Puppet) -> None:
    """A thief reads the target's messages, so that nobody would wake the threads behind them."""
    length = 2000 * PAGE  # the manager wins most races
    memory = puppet.do("map", length, "anonymous")
    got = puppet.hand_over([(memory, length, 0, PAGE)], pyuffd.ZeroSource(), keep=True)
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid, fault_around=1) as target:
        puppet.do("steal", False)
        puppet.do("touch_beside_thief", memory, length, PAGE, 1)
        assert puppet.do("end_stealing") > 0
        kept.wait_for(f"WARNING target {target.id}:", "threads that nobody else would have woken")


@pytest.mark.requires_root
def test_a_fork_child(kept: Kept, puppet: Puppet) -> None:
    memory = puppet.do("map", 4 * PAGE, "anonymous")
    got = puppet.hand_over([(memory, 4 * PAGE, 0, PAGE)], pyuffd.ZeroSource(), pyuffd.Feature.EVENTS)
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
        with puppet.fork() as child:
            kept.wait_for(f"a fork child of target {target.id}, served as its parent is")
            (served,) = target.children
            assert repr(served).startswith(f"<pyuffd.Target {served.id} of a fork child, serving, ")
        puppet.do("reap", child.pid)
        kept.wait_for(f"target {served.id}: ended")


def test_a_handler_that_is_slow_holds_up_nobody(kept: Kept) -> None:
    """What comes meanwhile is kept, up to a number, and what does not fit is counted."""
    logging.getLogger("pyuffd").setLevel(logging.WARNING)  # so that serve() does not wait for the handler's lock
    kept.may_go_on.clear()
    with pyuffd.Manager(handlers=1) as manager:
        for _ in range(1200):
            manager.add(pyuffd.Userfaultfd(), [Managed(pages=1).region()], verify=False).close(missing="zero")
    kept.may_go_on.set()
    kept.wait_for("log messages were dropped because there were too many")


def serve_in_silence() -> None:
    with Managed(pages=2).serve() as target:
        target.close(missing="zero")
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    tell(True)


def serve_from_many_threads() -> None:
    logging.basicConfig(level=logging.ERROR)
    sys.setswitchinterval(1e-6)
    gate = threading.Barrier(8)

    def serve() -> None:
        gate.wait()
        Managed(pages=1).serve().close("fill")

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell([thread.name for thread in threading.enumerate()].count("pyuffd-log"))


def test_the_journal_has_one_reader() -> None:
    assert run_child(serve_from_many_threads) == 1


def test_silent_by_default() -> None:
    assert run_child(serve_in_silence) is True


def serve_and_exit(fork: bool) -> object:
    """Log to stdout with the process's number; what is returned lives to the exit."""
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s", stream=sys.stdout)
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    held = [Managed(pages=4).serve()]
    child = os.fork() if fork else None
    if child == 0:
        held.append(Managed(pages=4).serve())
    elif child:
        os.waitpid(child, 0)
    return held


def logged(fork: bool) -> list[str]:
    # Without a watch of its own: a fork child would wait for that at its exit, and has no thread for it.
    command = words(serve_and_exit, fork, limit=None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_what_ends_at_exit_is_told() -> None:
    lines = logged(fork=False)
    assert "added" in lines[0]
    assert "ended" in lines[-1]


def test_a_fork_child_tells_of_its_own_targets() -> None:
    told = [(line.split()[0], "ended" if "ended" in line else "added") for line in logged(fork=True)]
    processes = {process for process, _ in told}
    assert len(processes) == 2
    for process in processes:
        assert [what for of, what in told if of == process] == ["added", "ended"]
