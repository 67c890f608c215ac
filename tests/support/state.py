"""States of a process, to be waited for or compared. Nobody sleeps to synchronise: ``until`` looks for a state."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT = 30.0  # seconds that a child, or a state that is waited for, may take


def until(predicate: Callable[[], object], what: str = "a state") -> None:
    """Look again and again, up to the limit."""
    deadline = time.monotonic() + LIMIT
    while not predicate():
        assert time.monotonic() < deadline, f"{what} did not come about within {LIMIT:.0f} s"
        os.sched_yield()


def is_in(name: str, thread: threading.Thread | None = None) -> bool:
    """Whether a function of this name is on the stack of a thread, by default the main one."""
    frame = sys._current_frames().get((thread or threading.main_thread()).ident or 0)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


def sleepers(fd: int) -> int:
    """How many threads sleep for a page of this userfaultfd, whether their messages were read or not."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return int(text.split("total:")[1].split()[0])


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists() or entry.is_symlink()}


def named_threads() -> dict[str, str]:
    """The threads of this process: their names by their ids."""
    names = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            names[task.name] = (task / "comm").read_text().strip()
    return names


@contextlib.contextmanager
def no_descriptor_leaks() -> Iterator[None]:
    """Wait until all descriptors that were opened meanwhile are closed: a stranger's are closed by another thread."""
    before = open_descriptors()
    yield
    until(lambda: open_descriptors() <= before, f"the end of descriptors {open_descriptors() - before}")
