"""What a daemon knows of the targets that it serves, and of those that have ended."""

import logging
import mmap
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pyuffd._target import Target

log = logging.getLogger("pyuffd.daemon")

_KEPT = 100


@dataclass
class Served:
    """A target, and where it came from."""

    target: Target
    uid: int | None
    length: int  # in bytes
    began: float = field(default_factory=time.time)

    def status(self) -> dict[str, Any]:
        """What ``pyuffd status`` shows of it."""
        stats = self.target.stats()
        return {
            "number": self.target.id,
            "pid": self.target.pid,
            "uid": self.uid,
            "since": self.began,
            "pages": self.target.pages,
            "missing": self.target.missing_pages,
            "faults": stats.faults,
            "installed": stats.pages,
            "poisoned": stats.poisoned,
            "children": len(self.target.children),
        }


class Targets:
    """The targets of a daemon. Its threads that receive them add, and its loop looks who has ended."""

    def __init__(self) -> None:
        self._served: list[Served] = []
        self._ended: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def add(self, target: Target, uid: int | None, length: int | None = None) -> None:
        """Take note of a target. If nobody tells its length in bytes, its pages are ordinary ones."""
        self._served.append(Served(target, uid, target.pages * mmap.PAGESIZE if length is None else length))

    def length(self) -> int:
        """How many bytes all together have."""
        return sum(served.length for served in list(self._served))

    def forget_ended(self) -> None:
        """Tell of each target that has ended, once."""
        for served in [each for each in self._served if each.target.ended]:
            self._served.remove(served)
            self._tell_end(served)

    def _tell_end(self, served: Served) -> None:
        target, report, stats = served.target, served.target.report, served.target.stats()
        seconds = time.time() - served.began
        self._ended.append(served.status() | {"seconds": seconds, "ending": report.to_dict() if report else None})
        if report is None:
            return
        took = "" if report.seconds is None else f" in {report.seconds * 1e6:.0f} us"
        log.info(
            "target %d: ended by %s%s after %.1f s: %d pages, %d faults, %d missing, verified %s",
            target.id, report.ending, took, seconds, stats.pages, stats.faults, report.missing_pages, report.verified,
        )  # fmt: skip

    def all(self) -> list[Target]:
        """Those that have not ended."""
        return [served.target for served in self._served]

    def status(self) -> dict[str, Any]:
        """What ``pyuffd status`` shows."""
        return {"targets": [served.status() for served in list(self._served)], "ended": list(self._ended)}
