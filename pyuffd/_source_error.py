"""What a source could not supply."""

from pyuffd import _core

_CAUSES = {
    "unreadable": "the source cannot be read",
    "unanswered": "the source failed",
    "late": "the source did not answer within its deadline",
}


class SourceError(Exception):
    """A source could not supply bytes, so the pages that they belong to are poisoned: a touch is a SIGBUS.

    ``__cause__`` is the exception of a source that is written in Python, or an OSError; None if there was none.

    Attributes:
        offset: Where the bytes are in the source.
        address: Where the poisoned memory was when it was poisoned.
        length: The length of the poisoned memory in bytes.
    """

    def __init__(self, text: str, offset: int, address: int, length: int) -> None:
        super().__init__(text, offset, address, length)
        self.offset = offset
        self.address = address
        self.length = length

    def __str__(self) -> str:
        return str(self.args[0])


def source_errors(core: _core.Target) -> list[SourceError]:
    """Convert the failures that the engine keeps."""
    return [_to_error(*failure) for failure in core.source_failures()]


def _to_error(cause: str, offset: int, address: int, length: int, raised: BaseException | None) -> SourceError:
    why = f": {type(raised).__name__}: {raised}" if raised else ""
    text = f"{_CAUSES[cause]} at offset {offset:#x}, so {address:#x}-{address + length:#x} is poisoned{why}"
    error = SourceError(text, offset, address, length)
    error.__cause__ = raised
    return error
