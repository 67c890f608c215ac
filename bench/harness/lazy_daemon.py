"""The daemons of a lazy restore, each in a process of its own."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_COMMAND = [sys.executable, "-m", "pyuffd", "serve"]
_CHECK_SECONDS = 60
_END_SECONDS = 600


@functools.cache
def working_criu() -> str:
    """Return the version of the criu on PATH; empty where there is none that works on this kernel."""
    if not shutil.which("criu"):
        return ""
    check = subprocess.run(["criu", "check"], capture_output=True, timeout=_CHECK_SECONDS)
    told = subprocess.run(["criu", "--version"], capture_output=True, text=True, timeout=_CHECK_SECONDS)
    found = re.search(r"Version: (\S+)", told.stdout)
    return found[1] if found and check.returncode == 0 else ""


class LazyDaemon:
    """The daemon of one restore. It listens when this is made.

    Attributes:
        socket: The path of its socket.

    Args:
        images: The folder of the images.
        command: Its command line but for the folder.
    """

    def __init__(self, images: Path, *command: str) -> None:
        self.socket = images / "lazy-pages.socket"
        reader, writer = os.pipe()
        self._name = " ".join(command[:2])
        self._process = subprocess.Popen(
            [*command, "-D", str(images), "--status-fd", str(writer), "-v1"], pass_fds=[writer]
        )
        os.close(writer)
        began = os.read(reader, 1)
        os.close(reader)
        if not began:
            raise RuntimeError(f"{self._name} did not begin: it says why on standard error")
        self._ended = 0.0
        self._watch = threading.Thread(target=self._note_end)
        self._watch.start()

    def _note_end(self) -> None:
        self._process.wait()
        self._ended = time.monotonic()

    def wait(self) -> float:
        """Wait for its end.

        Returns:
            When it ended, on the monotonic clock.
        """
        self._watch.join(_END_SECONDS)
        code = self._process.returncode
        if code != 0:
            what = "has not ended" if code is None else f"ended with {code}"
            raise RuntimeError(f"{self._name} {what}")
        return self._ended

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._watch.join()


class ServeCriu(LazyDaemon):
    """``pyuffd serve criu``, with options of its command line."""

    def __init__(self, images: Path, *options: str) -> None:
        self._events = images / "events"
        self._events.unlink(missing_ok=True)
        super().__init__(images, *_COMMAND, "criu", "--log-json", str(self._events), *options)

    def first_end(self) -> dict[str, Any]:
        """What it told of its first task at the end of that: see ``--log-json``."""
        events = [json.loads(line) for line in self._events.read_text().splitlines()]
        return next(event for event in events if event["event"] == "ended")


class CriuLazyPages(LazyDaemon):
    """``criu lazy-pages``, of the criu on PATH."""

    def __init__(self, images: Path) -> None:
        (images / "lazy-pages.socket").unlink(missing_ok=True)
        super().__init__(images, "criu", "lazy-pages")


class PagesDaemon:
    """``pyuffd serve criu-pages``, which listens on this host.

    Attributes:
        port: Its port.

    Args:
        images: The folder of the images.
    """

    def __init__(self, images: Path) -> None:
        command = [*_COMMAND, "criu-pages", "-D", str(images)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        if self._process.stderr is None:
            raise RuntimeError("it has no standard error")
        found = re.search(r"port (\d+)", line := self._process.stderr.readline())
        if not found:
            raise RuntimeError(f"pyuffd serve criu-pages did not begin: {line}")
        self.port = int(found[1])

    def __enter__(self) -> "PagesDaemon":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
