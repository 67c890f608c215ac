"""What the tests share: memory that faults, in this process or in a child that has a time limit.

A Python thread that touches a missing page sleeps with the GIL held. So pages that may be missing are touched by C++
threads (``Managed.touch``), or in a ``Child``. Nobody sleeps to synchronise: ``until`` looks for a state.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.random import default_rng  # not at its first use: a child may not read its file then

import pyuffd
from pyuffd import _core, _workload

PAGE: int = _core.page_size()
LIMIT = 30.0  # seconds that a child, or a state that is waited for, may take


def until(predicate: Callable[[], object], what: str = "a state") -> None:
    """Look again and again, up to the limit."""
    deadline = time.monotonic() + LIMIT
    while not predicate():
        assert time.monotonic() < deadline, f"{what} did not come about within {LIMIT:.0f} s"
        os.sched_yield()


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


def random_bytes(length: int, seed: int = 1) -> bytes:
    return default_rng(seed).bytes(length)


def readable(address: int, length: int = 1) -> bool:
    """A kernel access; False for poisoned memory. Never for memory that is missing."""
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        return len(os.pread(fd, length, address)) == length
    except OSError:
        return False
    finally:
        os.close(fd)


def huge_bytes(start: int, pid: int | str = "self") -> int:
    """AnonHugePages of the mapping at this address."""
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line[0].islower() or line[0].isdigit():
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            inside = first <= start < last
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no mapping at {start:#x}")


class Managed:
    """A mapping to be managed, and the bytes that it shall have: no two pages of it are equal."""

    def __init__(
        self,
        pages: int = 32,
        seed: int = 1,
        kind: Literal["anonymous", "memfd", "hugetlb"] = "anonymous",
        shared: bool = False,
    ) -> None:
        page_size = pyuffd.probe().hugetlb_page_size if kind == "hugetlb" else PAGE
        self.mapping = pyuffd.Mapping(pages * page_size, kind, shared)
        self.page: int = self.mapping.page_size
        self.pages = pages
        self.start: int = self.mapping.address
        self.length: int = self.mapping.length
        self.data = random_bytes(self.length, seed)
        self.source = pyuffd.MemorySource(self.data)
        self._sums: npt.NDArray[np.uint64] = _workload.checksums_of(self.data, self.page)
        self._zeros: npt.NDArray[np.uint64] = _workload.checksums_of(bytes(self.page), self.page)

    def at(self, page: int) -> int:
        return self.start + page * self.page

    def region(self, first: int = 0, pages: int | None = None, source: pyuffd.Source | None = None) -> pyuffd.Region:
        pages = self.pages - first if pages is None else pages
        offset = first * self.page
        return pyuffd.Region(self.at(first), pages * self.page, source or self.source, offset, self.page)

    def serve(self, **options: Any) -> pyuffd.Target:
        return pyuffd.serve(pyuffd.Userfaultfd(), [self.region()], **options)

    def toucher(self, first: int = 0, pages: int | None = None, **options: Any) -> _workload.Toucher:
        """Start threads that touch the pages and verify them; join them."""
        pages = self.pages - first if pages is None else pages
        options.setdefault("timeline_bins", 10)
        if options.pop("verified", True):
            options.setdefault("checksums", self._sums[first : first + pages])
        toucher = _workload.Toucher([(self.at(first), pages * self.page)], page_size=self.page, **options)
        toucher.start()
        return toucher

    def touch(self, first: int = 0, pages: int | None = None, **options: Any) -> _workload.Touches:
        """Touch the pages; every one must have its bytes."""
        touches = self.toucher(first, pages, **options).join()
        assert touches.wrong_pages == 0, [hex(address) for address in touches.wrong_addresses]
        return touches

    def state(self, page: int) -> str:
        """``right``, ``zero`` or ``wrong``; of a page that is present, or was released."""
        total = int(_workload.checksums(self.at(page), self.page, self.page)[0])
        if total == int(self._sums[page]):
            return "right"
        return "zero" if total == int(self._zeros[0]) else "wrong"

    def states(self) -> list[str]:
        return [self.state(page) for page in range(self.pages)]


_PRELUDE = """
import faulthandler, gc, json, os, signal, socket, sys, threading, time, warnings
faulthandler.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
faulthandler.dump_traceback_later({limit}, exit=True)
sys.path.insert(0, {package!r})
sys.path.insert(0, {tests!r})
import numpy as np
import pyuffd
from pyuffd import _core, _workload
from faulting import PAGE, Managed, open_descriptors, random_bytes, sleepers, until
def tell(value):
    print(json.dumps(value), flush=True)
def hear():
    return json.loads(sys.stdin.readline())
def become_nobody():
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""


class Child:
    """A Python process that runs a snippet; one that hangs is ended, and the test fails with its stacks.

    The snippet has ``tell(value)`` and ``hear()`` to talk with ``Child.hear()`` and ``Child.tell()``, and the names
    imported by the prelude. ``sys.argv[1:]`` are the arguments; ``sockets`` are inherited.
    """

    def __init__(self, code: str, *arguments: object, sockets: Sequence[Any] = (), limit: float = LIMIT) -> None:
        root = Path(pyuffd.__file__).parent.parent
        prelude = _PRELUDE.format(limit=limit, package=str(root), tests=str(Path(__file__).parent))
        # A file, so that nobody waits for a full pipe.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", prelude + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            pass_fds=[sock.fileno() for sock in sockets],
            start_new_session=True,  # with its own children, a group
        )
        # For one that stops its own watch, or cannot run it.
        self._watch = threading.Timer(limit + 5, self._kill)
        self._watch.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise AssertionError(f"the child ended with {code} instead of telling something:\n{self.errors()}")
        return json.loads(line)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def _kill(self) -> None:
        """End it and its children; it is not waited for yet, or they are alive, so the number is still theirs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def errors(self) -> str:
        """What it wrote to stderr until now."""
        self._stderr.seek(0)
        return self._stderr.read()

    def finish(self, expected: int = 0) -> str:
        """Wait for its end, which must be the expected one (a negative signal number, as of Popen); its stderr."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait()
        assert code == expected, f"the child ended with {code}, not with {expected}:\n{self.errors()}"
        return self.errors()

    def outcome(self) -> tuple[list[Any], int]:
        """Wait for its end, whatever that is: all that it told, and its code (as of Popen)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told = [json.loads(line) for line in self._process.stdout]
        self._process.stdin.close()
        return told, self._process.wait()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watch.cancel()
        if self._process.returncode is None:
            self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def run_child(code: str, *arguments: object, expected: int = 0, limit: float = LIMIT) -> Any:
    """Run a snippet to its end; what it told, or None."""
    with Child(code, *arguments, limit=limit) as child:
        assert child._process.stdout is not None
        told = [json.loads(line) for line in child._process.stdout]
        child.finish(expected)
    return told[0] if len(told) == 1 else told or None


@contextlib.contextmanager
def no_descriptor_leaks() -> Iterator[None]:
    before = open_descriptors()
    yield
    new = open_descriptors() - before
    assert not new, [str(Path(f"/proc/self/fd/{number}").readlink()) for number in new]


# A source whose bytes come when gate.copy() says so, and the functions on the stack of the main thread.
SLOW_SOURCE = """
memory, slow = Managed(pages=10), Managed(pages=10)
gate = pyuffd.Userfaultfd()
gate.register(slow.start, slow.length)
source = pyuffd.MemorySource(slow.mapping.array)
def open_gate():
    gate.copy(slow.start, np.frombuffer(slow.data, np.uint8).ctypes.data, slow.length)
def main_is_in(name):
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None
"""
