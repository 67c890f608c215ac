"""The daemons of a lazy restore, each in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

_COMMAND = [sys.executable, "-m", "pyuffd", "serve"]


class LazyDaemon:
    """``pyuffd serve criu`` for one restore. It listens when this is made.

    Attributes:
        socket: The path of its socket.

    Args:
        images: The folder of the images.
        options: Of the command line.
    """

    def __init__(self, images: Path, *options: str) -> None:
        self._events = images / "events"
        self._events.unlink(missing_ok=True)
        self.socket = images / "lazy-pages.socket"
        reader, writer = os.pipe()
        command = [*_COMMAND, "criu", "-D", str(images), "-v1", "--log-json", str(self._events)]
        command += ["--status-fd", str(writer), *options]
        self._process = subprocess.Popen(command, pass_fds=[writer])
        os.close(writer)
        began = os.read(reader, 1)
        os.close(reader)
        if not began:
            raise RuntimeError("pyuffd serve criu did not begin: it says why on standard error")

    def finish(self) -> dict[str, Any]:
        """Wait for its end.

        Returns:
            What it tells of its first task at the end of that: see ``--log-json``.
        """
        if code := self._process.wait(600):
            raise RuntimeError(f"pyuffd serve criu ended with {code}")
        events = [json.loads(line) for line in self._events.read_text().splitlines()]
        return next(event for event in events if event["event"] == "ended")

    def __enter__(self) -> "LazyDaemon":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()


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
