"""``pyuffd serve criu`` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

COMMAND = [sys.executable, "-W", "error", "-m", "pyuffd"]


class CriuDaemon:
    """The daemon of one restore; it is waited for until it listens."""

    def __init__(self, images: Path, *options: str, work: Path | None = None) -> None:
        self.work = work or images
        self._errors = (self.work / "errors").open("w+")
        place = ["--work-dir", str(work)] if work else []
        reader, writer = os.pipe()
        command = [*COMMAND, "serve", "criu", "--images-dir", str(images), *place, "--status-fd", str(writer), *options]
        self.process = subprocess.Popen(command, stderr=self._errors, start_new_session=True, pass_fds=[writer])
        os.close(writer)
        self.listens = os.read(reader, 1) == b"\0"  # or it has ended
        os.close(reader)

    def errors(self) -> str:
        """What it wrote to stderr until now."""
        return (self.work / "errors").read_text()

    def status(self) -> Any:
        """What ``pyuffd status`` tells."""
        command = [*COMMAND, "status", "--json", "--socket", str(self.work / "lazy-pages.socket")]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def finish(self, expected: int = 0) -> str:
        """Wait for its end, with the expected code; what it wrote to stderr."""
        code = self.process.wait(20)
        assert code == expected, f"the daemon ended with {code}, not with {expected}:\n{self.errors()}"
        assert not (self.work / "lazy-pages.socket").exists()
        return self.errors()

    def __enter__(self) -> "CriuDaemon":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._errors.close()


def refused(*options: str, environment: dict[str, str] | None = None) -> str:
    """What the daemon says that does not begin."""
    ended = subprocess.run([*COMMAND, "serve", *options], capture_output=True, text=True, timeout=20,
                           env={**os.environ, **(environment or {})})  # fmt: skip
    assert ended.returncode in (1, 2)
    assert ended.stderr.count("Traceback") == 0
    return ended.stderr
