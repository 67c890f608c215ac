"""The report of an ending."""

from dataclasses import asdict, dataclass
from typing import Any

from pyuffd import _core


@dataclass(frozen=True)
class EndingReport:
    """How pyuffd let go of a target, and why.

    Attributes:
        ending: ``"early-close"`` or ``"unregister"``, or ``"keep-open"`` if the userfaultfd is still open.
        reason: Why pyuffd chose this ending.
        seconds: The time from the first UNREGISTER or close until the last of these calls returned. None with
            keep-open.
        regions: The number of regions.
        missing_pages: The number of pages that were never installed. They read as zeros from now on. With keep-open,
            threads that touch them sleep.
        absent_pages: The number of pages that were in no registered memory when pyuffd tried to install them. The
            target had unmapped or moved them, or they were never registered. They do not have the source's bytes.
        verified: Whether the target's smaps shows that no region is registered any more. None if smaps was not read, or
            may not be read. False means that another descriptor keeps the userfaultfd open.
        found_present: The number of pages that were present although pyuffd had not installed them. They kept their
            bytes.
        poisoned: (start, length) in bytes of each range that was poisoned. A touch of it is SIGBUS.
        collapsed_bytes: The number of bytes that were put into transparent huge pages after the ending. None if
            ``collapse`` was False.
        began: When the ending began, on the clock of ``time.monotonic()``. None with keep-open.
    """

    ending: str
    reason: str
    seconds: float | None
    regions: int
    missing_pages: int
    verified: bool | None
    absent_pages: int = 0
    found_present: int = 0
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
        verified=core.verified,
        poisoned=tuple(core.poisoned),
        began=core.began,
        collapsed_bytes=core.collapsed_bytes,
    )
