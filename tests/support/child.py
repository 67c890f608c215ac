"""Processes that run a function of a test, have a time limit, and talk with the test.

A test starts one with ``Child``; this file is what the process runs.
"""

import contextlib
import faulthandler
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(TESTS)  # instead of this file's folder

from support.state import LIMIT  # noqa: E402


class Child:
    """A Python process that runs a function; one that hangs is ended, and the test fails with its stacks.

    The function has ``tell(value)`` and ``hear()`` to talk with ``Child.hear()`` and ``Child.tell()``.

    Args:
        function: Of a module, where it can be found by its name.
        arguments: What JSON can carry; paths come as text.
        sockets: Are inherited.
        limit: Seconds that it may take; None for a child of the whole session.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        sockets: Sequence[Any] = (),
        limit: float | None = LIMIT,
    ) -> None:
        # A file, so that nobody waits for a full pipe.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            words(function, *arguments, limit=limit),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            pass_fds=[sock.fileno() for sock in sockets],
            start_new_session=True,  # with its own children, a group
        )
        # For one that stops its own watch, or cannot run it.
        self._watch = threading.Timer(limit + 5, self.kill) if limit else None
        if self._watch:
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

    def kill(self) -> None:
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
        if self._watch:
            self._watch.cancel()
        if self._process.returncode is None:
            self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def run_child(function: Callable[..., object], *arguments: object, expected: int = 0, limit: float = LIMIT) -> Any:
    """Run a function to its end; what it told, or None."""
    with Child(function, *arguments, limit=limit) as child:
        assert child._process.stdout is not None
        told = [json.loads(line) for line in child._process.stdout]
        child.finish(expected)
    return told[0] if len(told) == 1 else told or None


def words(function: Callable[..., object], *arguments: object, limit: float | None = LIMIT) -> list[str]:
    """The command line of a process that runs a function."""
    file = sys.modules[function.__module__].__file__
    assert file is not None
    call = [file, function.__qualname__, json.dumps(arguments, default=str), str(limit or 0)]
    return [sys.executable, "-W", "error", __file__, *call]


# What follows is for the process.


# What the function returns lives to the end of the process.
_kept: list[object] = []


def tell(value: object) -> None:
    """Say something that the test hears."""
    print(json.dumps(value), flush=True)


def hear() -> Any:
    """Wait for what the test says."""
    return json.loads(sys.stdin.readline())


def become_nobody() -> None:
    """Become a user without permissions."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def _main(file: str, name: str, arguments: str, limit: str) -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
    sys.modules.setdefault("pytest", _LightPytest("pytest"))
    if float(limit):
        faulthandler.dump_traceback_later(float(limit), exit=True)
    _kept.append(getattr(_module(Path(file)), name)(*json.loads(arguments)))


class _Decoration:
    """What marks, parameters and fixtures are in a child: nothing."""

    def __getattr__(self, name: str) -> "_Decoration":
        return self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else self

    def __getitem__(self, key: object) -> "_Decoration":
        return self

    def __or__(self, other: object) -> "_Decoration":
        return self

    __ror__ = __or__


class _LightPytest(ModuleType):
    """pytest for a child, which runs no tests: to import the real one takes half of a child's start."""

    def __getattr__(self, name: str) -> Any:
        if name in ("raises", "warns", "fail"):
            del sys.modules["pytest"]
            return getattr(importlib.import_module("pytest"), name)
        return _Decoration()


def _module(file: Path) -> ModuleType:
    """Import it; a module of this package by its name, so that it is there once."""
    if file.is_relative_to(TESTS / "support"):
        return importlib.import_module(".".join(file.relative_to(TESTS).with_suffix("").parts))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    _main(*sys.argv[1:])
