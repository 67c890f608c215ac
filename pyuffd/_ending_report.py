"""How a target was let go."""

from dataclasses import asdict, dataclass
from typing import Any

from pyuffd import _core


@dataclass(frozen=True)
class EndingReport:
    """How a target was let go.

    Attributes:
        ending: ``"early-close"``, ``"unregister"``, or ``"keep-open"`` where the userfaultfd is still open.
        reason: Why this ending.
        seconds: From the first UNREGISTER or close to the return of the last; None under keep-open.
        regions: How many there were.
        missing_pages: Pages that were never supplied: they read as zeros from now on, or sleep under keep-open.
        absent_pages: Pages that lay in no registered memory of the target when they were to be installed: it unmapped
            or moved them, or they were never registered. What is read there, if anything, is not the source's.
        verified: Whether the target's smaps shows that no region is registered any more; None where nobody looked or
            smaps may not be read. False means that another descriptor keeps the userfaultfd alive.
        found_present: Pages that were present although nobody of ours had installed them: they were kept as they were.
        poisoned: (start, length) in bytes of what its source could not supply: touching it gives SIGBUS.
        collapsed_bytes: How much was put into transparent huge pages afterwards; None where that was not asked for.
        began: When letting go began, on the clock of ``time.monotonic()``; None under keep-open.
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
        """For JSON: every attribute by its name."""
        return asdict(self)


def to_report(core: _core.EndingReport) -> EndingReport:
    """Take over what the engine tells."""
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
