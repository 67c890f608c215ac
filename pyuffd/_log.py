"""The log of the engine, as records of the logger "pyuffd".

The engine's threads write to a journal, and one Python thread reads the journal. The first target that is added while
logging is set up starts this thread. If logging is not set up, there is no such thread.
"""

import logging
import os
import threading
from typing import NamedTuple

from pyuffd import _core
from pyuffd._ending_report import EndingReport, to_report

logger = logging.getLogger("pyuffd")
logger.addHandler(logging.NullHandler())

# For so long, an entry waits for entries that continue it.
_JOIN_SECONDS = 0.1

_CAUSES = {
    "unreadable": "the source cannot be read there",
    "unanswered": "the source failed, or gave too few bytes",
    "late": "the source did not answer within its deadline",
    "asked": "the target was closed with missing='poison'",
    "unserved": "no descriptor was left to serve this fork child with (raise RLIMIT_NOFILE)",
    "removed": "the target removed it from shared memory, and the kernel does not say how (see on_remove)",
    "outside": "it was registered, and no region describes it (see beyond)",
    "alias": "it is another mapping of a page that was poisoned",
}


class _Entry(NamedTuple):
    """An entry of the journal. ``start`` and ``length`` are in bytes."""

    news: str
    target: int
    amount: int
    start: int
    length: int
    cause: str
    report: _core.EndingReport | None

    def joined(self, later: "_Entry") -> "_Entry | None":
        """Join two entries into one if they are about neighbouring pages, poisoned for the same cause."""
        next_to_it = self._replace(amount=later.amount, start=self.start + self.length, length=later.length)
        if self.news != "poisoned" or next_to_it != later:
            return None
        return self._replace(amount=self.amount + later.amount, length=self.length + later.length)


class _Listener:
    """The thread that reads the journal."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def begin(self) -> None:
        """Start to read if logging is set up. If another thread is starting already, leave it to that thread."""
        if self._thread is not None or not _is_heard() or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._start()
        finally:
            self._starting.release()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="pyuffd-log", daemon=True)
        try:
            _core.journal_open()
            thread.start()
        except (OSError, RuntimeError) as error:
            _core.journal_shut()
            logger.warning("the log lacks messages of the engine, because no thread can read its journal: %s", error)
            return
        self._thread = thread

    def end(self) -> None:
        """Log all that was written, and end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            _core.journal_shut()
            thread.join()

    def forget(self) -> None:
        """Forget the thread in a fork child. The child has no reader, and no thread that was starting one."""
        self._thread = None
        self._starting = threading.Lock()

    def _run(self) -> None:
        held: _Entry | None = None
        while (entry := _read(_JOIN_SECONDS if held else None)) or held:
            if held and entry and (joined := held.joined(entry)):
                held = joined
                continue
            if held:
                self._tell(held)
            held = None
            if entry and entry.news == "poisoned":
                held = entry
            elif entry:
                self._tell(entry)
            if dropped := _core.journal_dropped():
                logger.warning("%d log messages were dropped because there were too many", dropped)

    def _tell(self, entry: _Entry) -> None:
        number, count = entry.target, entry.amount
        pages = f"{count} {'page' if count == 1 else 'pages'}"
        place = f"{pages} at {entry.start:#x}-{entry.start + entry.length:#x}"
        if entry.news == "born":
            logger.info("target %d: a fork child of target %d, served as its parent is", number, count)
        elif entry.news == "ended":
            self._tell_end(number, count, to_report(entry.report) if entry.report else None)
        elif entry.news == "poisoned":
            logger.warning("target %d: poisoned %s: %s", number, place, _CAUSES[entry.cause])
        elif entry.news == "guarded":
            logger.warning("target %d: its guard had ended, and another one holds it now", number)
        elif entry.news == "orphan":
            logger.error(
                "target %d: %d fork children were born as its manager died: their missing pages read as zeros",
                number,
                count,
            )
        elif entry.news == "unguarded":
            logger.error(
                "target %d: no guard can hold it or its fork child, so missing pages read as zeros if this process is "
                "killed: raise RLIMIT_NOFILE and RLIMIT_NPROC",
                number,
            )
        elif entry.news == "stuck":
            logger.error("target %d: %s can be neither supplied nor poisoned: a touch sleeps", number, place)
        else:
            logger.warning("target %d: woke %d threads that nobody else would have woken", number, count)

    def _tell_end(self, number: int, missing: int, report: EndingReport | None) -> None:
        level = logging.WARNING if missing or (report and report.poisoned) else logging.INFO
        how = f" by {report.ending} ({report.reason}) in {report.seconds or 0:.6f} s" if report else ""
        extra = {"report": report}
        logger.log(level, "target %d: ended%s, %d pages missing", number, how, missing, extra=extra)


def _read(seconds: float | None) -> _Entry | None:
    entry = _core.journal_read(seconds)
    return _Entry(*entry) if entry else None


def _is_heard() -> bool:
    """Whether any log handler gets the records of this logger. A NullHandler does not count."""
    current: logging.Logger | None = logger
    while current:
        if any(not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return logger.isEnabledFor(logging.ERROR)
        current = current.parent if current.propagate else None
    return False


listener = _Listener()
os.register_at_fork(after_in_child=listener.forget)
