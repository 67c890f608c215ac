"""Numbers of thousands of messages at once: protobuf's varints as columns of numpy.

Images have a message for each VMA and for each MiB of memory. To take their fields one by one costs Python some
microseconds a message. Here all messages are decoded side by side, as long as they are alike. Where they are not,
``IrregularError`` says so, and the caller takes protobuf.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

_HIGH = np.uint64(0x8080808080808080)
_LOW = np.uint64(0x7F7F7F7F7F7F7F7F)
# So many bytes must lie behind the last number, since eight are read at once; ``padded`` adds them.
_PAD = 16
# So few messages are decoded sooner one by one.
WORTHWHILE = 16
# Varints longer than 8 bytes are read one by one: a task has one or two such numbers.
_FEW = 16


class IrregularError(Exception):
    """The messages are not alike."""


def padded(data: bytes) -> bytes:
    """The bytes with others behind them, for ``Columns`` up to their end."""
    return data + bytes(_PAD)


class Columns:
    """The messages that lie in some bytes, decoded field by field.

    Args:
        data: The bytes. Where a number lies too near to their end, ``IrregularError`` is raised.
        starts: Where each message begins.
        ends: Where each message ends.
    """

    def __init__(self, data: bytes, starts: Numbers, ends: Numbers) -> None:
        self._bytes = np.frombuffer(data, np.uint8)
        # Eight bytes from each byte on.
        self._words = np.ndarray((max(len(data) - 7, 0),), "<u8", data, strides=(1,))
        self._last = len(data) - _PAD
        self._at = starts
        self._ends = ends

    @property
    def done(self) -> bool:
        """Whether all messages were decoded to their ends."""
        return bool((self._at == self._ends).all())

    def has(self, tag: int) -> bool:
        """Whether the next field of all messages has this tag; false if none has it."""
        if self._at.max() > self._last:
            raise IrregularError
        same = (self._bytes[self._at] == tag) & (self._at < self._ends)
        if same.all():
            return True
        if same.any():
            raise IrregularError
        return False

    def take(self) -> NDArray[np.uint64]:
        """Decode the number behind the tag."""
        at = self._at + 1
        first = self._bytes[at]
        if (first < 0x80).all():
            values, self._at = first.astype(np.uint64), at + 1
        else:
            values, lengths = self._decode(at)
            self._at = at + lengths
        if (self._at > self._ends).any():
            raise IrregularError
        return values

    def _decode(self, at: Numbers) -> tuple[NDArray[np.uint64], Numbers]:
        word = self._words[at]
        stop = ~word & _HIGH
        long = np.flatnonzero(stop == 0)
        if len(long) > _FEW:
            raise IrregularError
        last = stop & (~stop + np.uint64(1))  # the high bit of the last byte
        lengths = (np.frexp(last.astype(np.float64))[1] >> 3).astype(np.int64)
        values = _squeezed(word & _LOW & (last - np.uint64(1)))
        for row in long:
            values[row], lengths[row] = self._one(int(at[row]))
        return values, lengths

    def _one(self, at: int) -> tuple[int, int]:
        value = 0
        for index, byte in enumerate(self._bytes[at : at + 10].tolist()):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value & (1 << 64) - 1, index + 1
        raise IrregularError


def _squeezed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Put eight times seven bits together: pairs, pairs of pairs, and the two halves."""
    for keep, move, by in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    ):
        word = (word & np.uint64(keep)) | ((word & np.uint64(move)) >> np.uint64(by))
    return word
