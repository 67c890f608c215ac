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
    """A target, and where it came from.

    Attributes:
        target: The target.
        uid: The user whose process handed it over; None where that is not known.
        length: Of its regions, in bytes; 0 for a fork child.
        parent: The number of the target it was forked from.
    """

    target: Target
    uid: int | None
    length: int
    parent: int | None = None
    began: float = field(default_factory=time.time)
    known_children: set[int] = field(default_factory=set)

    def status(self) -> dict[str, Any]:
        """What ``pyuffd status`` shows of it."""
        stats = self.target.stats()
        return {
            "number": self.target.id,
            "pid": self.target.pid,
            "uid": self.uid,
            "parent": self.parent,
            "since": self.began,
            "pages": self.target.pages,
            "missing": self.target.missing_pages,
            "faults": stats.faults,
            "installed": stats.pages,
            "poisoned": stats.poisoned,
            "children": len(self.known_children),
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

    def look(self) -> list[Target]:
        """Tell of each target that has ended, once.

        Returns:
            The fork children that have come since.
        """
        born = []
        for served in list(self._served):
            has_ended = served.target.ended  # asked first: afterwards no child comes any more
            born += self._note_children(served)
            if has_ended:
                self._served.remove(served)
                self._tell_end(served)
        return born

    def _note_children(self, served: Served) -> list[Target]:
        born = [child for child in served.target.children if child.id not in served.known_children]
        for child in born:
            served.known_children.add(child.id)
            self._served.append(Served(child, served.uid, 0, served.target.id))
        return born

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
