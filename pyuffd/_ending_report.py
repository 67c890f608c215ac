"""The report of an ending."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyuffd import _core


@dataclass(frozen=True)
class EndingReport:
    """How pyuffd let go of a target, and why.

    Attributes:
        ending: ``"early-close"`` or ``"unregister"``; ``"keep-open"`` if the userfaultfd is still open.
        reason: Why pyuffd chose this ending.
        seconds: The time from the first UNREGISTER or close to the return of the last one; None under keep-open.
        regions: The number of regions.
        missing_pages: How many pages were never supplied. They read as zeros from now on. Under keep-open the threads
            that touch them sleep.
        absent_pages: How many pages could not be installed because no registered memory was there: the target had
            unmapped or moved the memory, or it was never registered. The memory there does not have the source's bytes.
        verified: Whether the target's smaps shows that no region is registered any more. False means that another
            descriptor keeps the userfaultfd alive. None means that smaps was not or could not be read.
        found_present: How many pages were present although pyuffd had not installed them. They were not changed.
        trusted: ``"pagemap"`` if another manager had served the target before, and pyuffd took every page that was
            missing for one that was never installed (``trust="pagemap"``). A page that the target had dropped before
            then has the source's bytes again, instead of zeros. Otherwise None.
        poisoned: (start, length) in bytes of memory that the source could not supply. A touch of it is a SIGBUS.
        collapsed_bytes: How many bytes were put into transparent huge pages after the ending; None if ``collapse``
            is False.
        began: When the ending began, on the clock of ``time.monotonic()``; None under keep-open.
    """

    ending: str
    reason: str
    seconds: float | None
    regions: int
    missing_pages: int
    verified: bool | None
    absent_pages: int = 0
    found_present: int = 0
    trusted: Literal["pagemap"] | None = None
    poisoned: tuple[tuple[int, int], ...] = ()
    began: float | None = None
    collapsed_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute by its name, for JSON."""
        return asdict(self)


def to_report(core: _core.EndingReport) -> EndingReport:
    """Convert a report of the engine."""
    return EndingReport(
        ending=core.ending,
        reason=core.reason,
        seconds=core.seconds,
        regions=core.regions,
        missing_pages=core.missing_pages,
        absent_pages=core.absent_pages,
        found_present=core.found_present,
        trusted="pagemap" if core.trusted_pagemap else None,
        verified=core.verified,
        poisoned=tuple(core.poisoned),
        began=core.began,
        collapsed_bytes=core.collapsed_bytes,
    )
