"""How an image is cut into messages: magic numbers, then a length of 32 bits before each message.

See lib/pycriu/images/images.py of CRIU 4.2, which describes it in words.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyuffd.criu.errors import ImageError
from pyuffd.criu.schema import COMMON_MAGIC, INVENTORY_MAGIC, MESSAGES, PAGEMAP_MAGIC, DecodeError

_U32 = struct.Struct("<I")
# The tag of field 1 as a number, with which all messages of a pagemap begin.
_FIRST_TAG = 0x08


@dataclass(frozen=True)
class Image:
    """The messages of one image.

    Attributes:
        name: As errors name it.
        data: The file.
        starts: Where each message begins.
        lengths: How long each message is.
    """

    name: str
    data: bytes
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def message(self, number: int, kind: str) -> Any:
        """Parse the message of this number as one of this kind."""
        start, length = int(self.starts[number]), int(self.lengths[number])
        return parsed(kind, self.data[start : start + length], self.name, f"message {number} at byte {start}")

    def sole(self, kind: str) -> Any:
        """Parse the only message."""
        if len(self.starts) != 1:
            raise ImageError(self.name, f"it has {len(self.starts)} messages, not the one {kind}")
        return self.message(0, kind)


def parsed(kind: str, data: bytes, name: str, what: str) -> Any:
    """Parse a message; ``what`` it is called where it is not of this kind."""
    try:
        found = MESSAGES[kind].FromString(data)
    except DecodeError:
        raise ImageError(name, f"{what} is no {kind}") from None
    if not found.IsInitialized():  # FromString takes a message without its required fields
        raise ImageError(name, f"{what} is no {kind}: {found.FindInitializationErrors()[0]} is missing")
    return found


def cut(name: str, data: bytes, magic: int, version: int) -> Image:
    """Check the magic numbers, and find the messages."""
    expected = [magic] if magic == INVENTORY_MAGIC or version == 1 else [COMMON_MAGIC, magic]
    for number, value in enumerate(expected):
        if len(data) < 4 * number + 4:
            raise ImageError(name, f"the file ends within its magic numbers, after {len(data)} bytes")
        found = _U32.unpack_from(data, 4 * number)[0]
        if found != value:
            raise ImageError(name, f"its magic number {number + 1} is {found:#x}, not {value:#x}")
    begin = 4 * len(expected)
    found = _chained(data, begin) if magic == PAGEMAP_MAGIC else None
    starts, lengths = found or _walked(name, data, begin)
    return Image(name, data, starts, lengths)


def _chained(data: bytes, begin: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Guess all lengths at once, and prove that each leads to the next; None where that is not so."""
    found = np.frombuffer(data, np.uint8)[begin:]
    if len(found) < 5:
        return None
    zero = found == 0
    at = np.flatnonzero(zero[1:-3] & zero[2:-2] & zero[3:-1] & (found[4:] == _FIRST_TAG))
    if not len(at) or at[0] != 0:
        return None
    lengths = found[at].astype(np.int64)
    after = at + 4 + lengths
    if after[-1] != len(found) or (after[:-1] != at[1:]).any():
        return None
    return at + (begin + 4), lengths


def _walked(name: str, data: bytes, begin: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Follow the lengths one by one."""
    found: list[tuple[int, int]] = []
    while begin < len(data):
        left = len(data) - begin - _U32.size
        if left < 0:
            raise ImageError(name, f"the file ends within the length at byte {begin}")
        length = _U32.unpack_from(data, begin)[0]
        if length > left:
            what = f"message {len(found)} at byte {begin} has a length of {length} bytes, and {left} are left"
            raise ImageError(name, what)
        found.append((begin + _U32.size, length))
        begin += _U32.size + length
    starts, lengths = np.array(found, np.int64).reshape(-1, 2).T
    return starts, lengths
