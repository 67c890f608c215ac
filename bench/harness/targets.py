"""Targets in this process and in a child of it, with the same calls."""

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyuffd
from pyuffd.handoff import Handoff

from .axes import REGION_MODES, Mode
from .memory import Range
from .target import Kind, LocalTarget, Touched

_CHILD = __name__.rpartition(".")[0] + ".child"


class ChildTarget:
    """A ``LocalTarget`` in a child process of this one; the calls of the same names do the same there."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []
        calls, their_calls = socket.socketpair()
        self._sock, their_sock = socket.socketpair()
        with calls, their_calls, their_sock:
            fds = [their_calls.fileno(), their_sock.fileno()]
            command = [sys.executable, "-m", _CHILD, *map(str, fds)]
            self._child = subprocess.Popen(command, pass_fds=fds)
            self._calls = calls.makefile("rwb")

    def map(self, lengths: Sequence[int], mode: Mode = "missing") -> list[Range]:
        """See ``LocalTarget``."""
        self.ranges = self._call("map", lengths, mode)
        return self.ranges

    def renew(self) -> None:
        """See ``LocalTarget``."""
        self._call("renew")

    def map_file(self, path: str, length: int, copies: int) -> list[Range]:
        """See ``LocalTarget``."""
        self.ranges = self._call("map_file", path, length, copies)
        return self.ranges

    def hand_over_each(self, source: pyuffd.Source, mode: Mode) -> list[Handoff]:
        """Receive each range with a userfaultfd of its own."""
        self._post("send_each", mode)
        handoffs = [pyuffd.handoff.receive(self._sock, source, mode=REGION_MODES[mode]) for _ in self.ranges]
        self._answer()
        return handoffs

    def write_to_each(self, pages: int) -> None:
        """See ``LocalTarget``."""
        self._call("write_to_each", pages)

    def memory(self) -> tuple[int, int]:
        """See ``LocalTarget``."""
        found: tuple[int, int] = self._call("memory")
        return found

    def add_vmas(self, count: int) -> None:
        """See ``LocalTarget``."""
        self._call("add_vmas", count)

    def fork(self) -> float:
        """See ``LocalTarget``."""
        seconds: float = self._call("fork")
        return seconds

    def hand_over(
        self, source: pyuffd.Source, offsets: Sequence[int], mode: Mode = "missing", features: int = 0
    ) -> Handoff:
        """Receive what a manager in this process serves, registered by the child."""
        self._post("send", offsets, mode, features)
        handoff = pyuffd.handoff.receive(self._sock, source, mode=REGION_MODES[mode])
        self._answer()
        return handoff

    def restore_lazily(self, path: str, pid: int) -> float:
        """See ``LocalTarget``."""
        marked: float = self._call("restore_lazily", path, pid)
        return marked

    def prepare_touching(self, **plan: Any) -> None:
        """See ``LocalTarget``."""
        self._call("prepare_touching", **plan)

    def start_prepared_touches(self) -> None:
        """Begin ``touch_prepared()``."""
        self._post("touch_prepared")

    def finish_prepared_touches(self) -> tuple[Touched, Touched]:
        """Wait for what ``touch_prepared()`` returns."""
        found: tuple[Touched, Touched] = self._answer()
        return found

    def restore_and_touch(self, path: str, pid: int) -> tuple[float, Touched, Touched]:
        """See ``LocalTarget``."""
        found: tuple[float, Touched, Touched] = self._call("restore_and_touch", path, pid)
        return found

    def start_touching(self, ranges: Sequence[Range] | None = None, **plan: Any) -> None:
        """See ``LocalTarget``."""
        self._call("start_touching", ranges, **plan)

    def finish_touching(self, *, stop: bool = False) -> Touched:
        """See ``LocalTarget``."""
        touched: Touched = self._call("finish_touching", stop=stop)
        return touched

    def touch(self, ranges: Sequence[Range] | None = None, **plan: Any) -> Touched:
        """See ``LocalTarget``."""
        touched: Touched = self._call("touch", ranges, **plan)
        return touched

    def start_bystanders(self, kind: Kind, **plan: Any) -> None:
        """See ``LocalTarget``."""
        self._call("start_bystanders", kind, **plan)

    def stop_bystanders(self) -> Touched:
        """See ``LocalTarget``."""
        touched: Touched = self._call("stop_bystanders")
        return touched

    def read_file(self, path: str, offsets: Sequence[int], threads: int = 1) -> float:
        """See ``LocalTarget``."""
        seconds: float = self._call("read_file", path, offsets, threads)
        return seconds

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def touch_natively(self) -> float:
        """See ``LocalTarget``."""
        seconds: float = self._call("touch_natively")
        return seconds

    def sum_memmap(self, path: str, length: int) -> float:
        """See ``LocalTarget``."""
        seconds: float = self._call("sum_memmap", path, length)
        return seconds

    def touch_file(self, path: str, *, populate: bool = False, **plan: Any) -> tuple[float, Touched]:
        """See ``LocalTarget``."""
        found: tuple[float, Touched] = self._call("touch_file", path, populate=populate, **plan)
        return found

    def close(self) -> None:
        """End the child and wait for it."""
        self._calls.close()
        self._sock.close()
        self._child.wait()

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        self._post(method, *arguments, **keywords)
        return self._answer()

    def _post(self, method: str, *arguments: Any, **keywords: Any) -> None:
        pickle.dump((method, arguments, keywords), self._calls)
        self._calls.flush()

    def _answer(self) -> Any:
        result, error = pickle.load(self._calls)
        if error:
            raise RuntimeError(f"in the target process:\n{error}")
        return result


Target = LocalTarget | ChildTarget


@contextmanager
def open_target(setup: str) -> Iterator[Target]:
    """Have a target meanwhile: of this process for ``"in-process"``, of a child for ``"across"``."""
    if setup == "in-process":
        yield LocalTarget()
        return
    child = ChildTarget()
    try:
        yield child
    finally:
        child.close()
