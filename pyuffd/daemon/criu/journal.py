"""What happened in a restore, as lines of JSON for programs."""

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any

log = logging.getLogger("pyuffd.criu")


class Journal:
    """Lines of JSON; nothing is written if there is no path.

    Args:
        path: Of the file, to which lines are added.

    Raises:
        ValueError: The file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            self._file = path.open("a") if path else None
        except OSError as error:
            raise ValueError(f"--log-json {path} cannot be written: {error.strerror}") from None

    def write(self, event: str, facts: dict[str, Any]) -> None:
        """Write a line: the event, the time as seconds since the epoch, and the facts."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"event": event, "time": time.time(), **facts}) + "\n")
            self._file.flush()
        except OSError as error:  # the tasks are served on
            log.warning("no events are written any more: %s", error)
            self.close()
            self._file = None

    def close(self) -> None:
        """Write nothing more."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
