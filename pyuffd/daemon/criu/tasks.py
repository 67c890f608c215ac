"""The tasks of a restore while they are served, and what is told of them."""

import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

from pyuffd._target import Target
from pyuffd.daemon.criu.journal import Journal

log = logging.getLogger("pyuffd.criu")


@dataclass
class Restored:
    """A task, or a fork child of one, while it is served.

    Attributes:
        target: Its target.
        pid: The task's pid inside the restored pid namespace; of a fork child, that of the task it descends from.
        comm: The name of the task's program.
        is_child: Whether it was forked after the restore.
    """

    target: Target
    pid: int
    comm: str
    is_child: bool = False
    began: float = field(default_factory=time.monotonic)
    known_children: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """How messages name it."""
        what = f"a fork child of task {self.pid}" if self.is_child else f"task {self.pid}"
        return f"{what} ({self.comm})" if self.comm else what

    def facts(self) -> dict[str, Any]:
        """What is known of it now, for JSON."""
        stats = self.target.stats()
        return {
            "number": self.target.id,
            "pid": self.target.pid,
            "restored_pid": self.pid,
            "program": self.comm,
            "child": self.is_child,
            "pages": self.target.pages,
            "missing": self.target.missing_pages,
            "faults": stats.faults,
            "installed": stats.pages,
            "poisoned": stats.poisoned,
        }


class RestoredTasks:
    """All tasks that are served, and those that have ended. The main thread's.

    Attributes:
        pids: The pids of all tasks that came, as the images have them.
        failed: Whether pages of some task could not be supplied.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._live: list[Restored] = []
        self._ended: list[dict[str, Any]] = []
        self.pids: set[int] = set()
        self.failed = False
        self.pages = 0
        self._settled_pages = 0

    def add(self, restored: Restored) -> None:
        """Take note of a task that is served from now on."""
        self._live.append(restored)
        target = restored.target
        self.pages += target.pages
        log.info("%s: %d pages, process %s", restored.name, target.pages, target.pid or "unknown")
        self._journal.write("served", restored.facts())

    @property
    def live(self) -> list[Target]:
        """The targets that have not ended."""
        return [each.target for each in self._live]

    @property
    def restored(self) -> list[Target]:
        """Those of them that the restore has sent, and that were not forked since."""
        return [each.target for each in self._live if not each.is_child]

    def installed_pages(self) -> int:
        """How many pages of all tasks are there, or will not come any more."""
        return self._settled_pages + sum(each.pages - each.missing_pages for each in self.live)

    def look(self) -> list[Target]:
        """Tell of each that has ended, once, and return the fork children that have come since."""
        born = []
        for parent in list(self._live):
            ended = parent.target.ended  # asked first: afterwards no child comes any more
            for child in parent.target.children:
                if child.id not in parent.known_children:
                    parent.known_children.add(child.id)
                    self.add(Restored(child, parent.pid, parent.comm, is_child=True))
                    born.append(child)
            if ended:
                self._live.remove(parent)
                self._tell_end(parent)
        return born

    def status(self) -> dict[str, Any]:
        """What ``pyuffd status`` shows."""
        now = time.monotonic()
        return {
            "targets": [
                each.facts() | {"since": time.time() - (now - each.began), "children": len(each.known_children)}
                for each in self._live
            ],
            "ended": self._ended[-100:],
        }

    def _tell_end(self, restored: Restored) -> None:
        target, report, stats = restored.target, restored.target.report, restored.target.stats()
        self._settled_pages += target.pages
        seconds = time.monotonic() - restored.began
        quantiles = (stats.latency_quantile(share) for share in (0.5, 0.99))
        p50, p99 = (each if math.isfinite(each) else None for each in quantiles)
        facts = restored.facts() | {
            "seconds": seconds,
            "p50": p50,
            "p99": p99,
            "ending": report.to_dict() if report else None,
        }
        self._ended.append(facts)
        self._journal.write("ended", facts)
        if report is None:
            return
        took = "" if report.seconds is None else f" in {report.seconds * 1e6:.0f} us"
        faults = f"{stats.faults} faults"
        if p50 is not None and p99 is not None:
            faults += f" (p50 {p50 * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us)"
        log.info(
            "%s: ended by %s%s after %.3f s: %d pages, %s",
            restored.name, report.ending, took, seconds, stats.pages, faults,
        )  # fmt: skip
        if report.missing_pages:
            log.info("%s: it ended while %d of its pages were missing", restored.name, report.missing_pages)
        if report.poisoned:
            self.failed = True
            causes = "; ".join(str(error) for error in target.source_errors)
            log.error("%s: %d ranges of memory are poisoned: %s", restored.name, len(report.poisoned), causes)
