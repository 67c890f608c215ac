"""Where the lazy memory of a task comes from: few long ranges, out of many short entries.

CRIU cuts entries at 1 MiB, and a lazy-pages daemon must not install across the end of a VMA (collect_iovs() of
criu/uffd.c, version 4.2). Here entries are split at the ends of VMAs, followed to the parent that has their pages, and
put together again where memory and file go on. All steps are done for all entries at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

from pyuffd.criu.columns import Numbers
from pyuffd.criu.errors import ImageError
from pyuffd.criu.layer import Layer
from pyuffd.criu.schema import PE_LAZY, PE_PARENT, PE_PRESENT

# How a range is read.
FILE, COMPRESSED, REMOTE = 0, 1, 2
_HOW = ("file", "compressed", "remote")


class LazyRange(NamedTuple):
    """Memory that is installed after the restore.

    Attributes:
        start: Its first address.
        length: In bytes.
        file: The path of the pages file; empty where the pages are with the page server.
        offset: In that file, behind compressed pages any number; -1 where it is not read as it stands.
        how: ``"file"``, ``"compressed"`` (``Task.read()`` has its bytes) or ``"remote"``.
        vma: The number of its mapping, among those of ``Task.vma_starts``.
    """

    start: int
    length: int
    file: str
    offset: int
    how: str
    vma: int


@dataclass(frozen=True)
class Pieces:
    """Ranges of memory side by side, sorted.

    Attributes:
        start: The first address of each.
        end: The address behind each.
        layer: Which of the layers has it.
        offset: In the pages file of that layer; -1 where it is not read as it stands.
        how: ``FILE``, ``COMPRESSED`` or ``REMOTE``.
    """

    start: Numbers
    end: Numbers
    layer: Numbers
    offset: Numbers
    how: Numbers

    @property
    def length(self) -> int:
        """Of all together, in bytes."""
        return int((self.end - self.start).sum())

    def length_of(self, how: int) -> int:
        """Of those that are read in this way."""
        return int((self.end - self.start)[self.how == how].sum())


class LazyRanges:
    """The lazy memory of a task, sorted by address: a sequence of ``LazyRange``.

    Attributes:
        start: The first address of each range.
        length: The length of each.
        offset: In its file; -1 where it is not read as it stands.
        how: ``FILE``, ``COMPRESSED`` or ``REMOTE`` for each.
        file: The number of its file, among ``files``.
        files: The paths of all pages files that it comes from.
    """

    def __init__(self, pieces: Pieces, vma: Numbers, files: list[str]) -> None:
        self.start, self.length, self.offset = pieces.start, pieces.end - pieces.start, pieces.offset
        self.file, self.files = pieces.layer, files
        self.how, self._vma = pieces.how, vma

    @classmethod
    def none(cls) -> "LazyRanges":
        """Those of a task without memory."""
        empty = np.zeros(0, np.int64)
        return cls(Pieces(empty, empty, empty, empty, empty), empty, [])

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, index: int) -> LazyRange: ...
    @overload
    def __getitem__(self, index: slice) -> list[LazyRange]: ...
    def __getitem__(self, index: int | slice) -> LazyRange | list[LazyRange]:
        return list(self)[index]

    def __iter__(self) -> Iterator[LazyRange]:
        files = self.files
        columns = (self.start, self.length, self.file, self.offset, self.how, self._vma)
        for start, length, file, offset, how, vma in zip(*(one.tolist() for one in columns), strict=True):
            yield LazyRange(start, length, files[file] if how != REMOTE else "", offset, _HOW[how], vma)


def overlaps(start: Numbers, end: Numbers, other_start: Numbers, other_end: Numbers) -> tuple[Numbers, ...]:
    """Cut sorted ranges by other sorted ranges: the parts that both have, and their numbers in both."""
    first = np.searchsorted(other_end, start, side="right")
    if len(first) and first[-1] < len(other_end) and _within(start, end, other_start[first], other_end[first]):
        return start, end, np.arange(len(start)), first
    counts = np.maximum(np.searchsorted(other_start, end, side="left") - first, 0)
    mine = np.repeat(np.arange(len(start)), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    other = np.arange(len(mine)) - before + np.repeat(first, counts)
    return np.maximum(start[mine], other_start[other]), np.minimum(end[mine], other_end[other]), mine, other


def _within(start: Numbers, end: Numbers, other_start: Numbers, other_end: Numbers) -> bool:
    return bool((other_start <= start).all() and (end <= other_end).all())


def uncovered(start: Numbers, end: Numbers, parts: tuple[Numbers, ...]) -> int | None:
    """The first address of the ranges that no part has; None if the parts have all."""
    part_start, part_end, mine, _ = parts
    if part_start is start:
        return None
    left = end - start - np.bincount(mine, part_end - part_start, len(start)).astype(np.int64)
    lacking = np.flatnonzero(left)
    if not len(lacking):
        return None
    at = int(start[lacking[0]])
    for one_start, one_end in zip(
        part_start[mine == lacking[0]].tolist(), part_end[mine == lacking[0]].tolist(), strict=True
    ):
        if one_start > at:
            break
        at = one_end
    return at


def followed(layer: Layer, start: Numbers, end: Numbers, entry: Numbers, layers: list[Layer]) -> Pieces:
    """Find who has the pages of some parts of a layer's entries: the layer itself, or a parent.

    Args:
        layer: The layer.
        start: The first address of each part.
        end: The address behind each.
        entry: The number of its entry.
        layers: The layers that were met; this one is added.
    """
    index = len(layers)
    layers.append(layer)
    flags = layer.entries.flags[entry]
    how = np.where(flags & PE_PRESENT, FILE, REMOTE)
    if layer.entries.blocks:
        how[np.isin(entry, list(layer.entries.blocks))] = COMPRESSED
    offset = np.where(how == FILE, layer.offsets[entry] + (start - layer.entries.start[entry]), -1)
    own = Pieces(start, end, np.full(len(start), index), offset, how)
    inherited = (flags & PE_PARENT) != 0
    if not inherited.any():
        return own
    return _joined(_chosen(own, ~inherited), _inherited(layer, start[inherited], end[inherited], layers))


def _inherited(layer: Layer, start: Numbers, end: Numbers, layers: list[Layer]) -> Pieces:
    parent = layer.parent()
    parts = overlaps(start, end, parent.entries.start, parent.entries.end)
    at = uncovered(start, end, parts)
    if at is not None:
        raise ImageError(parent.name, f"no entry has the page at {at:#x}, and {layer.name} says PE_PARENT")
    return followed(parent, parts[0], parts[1], parts[3], layers)


def _chosen(pieces: Pieces, which: Numbers) -> Pieces:
    return Pieces(*(getattr(pieces, name)[which] for name in ("start", "end", "layer", "offset", "how")))


def _joined(one: Pieces, other: Pieces) -> Pieces:
    columns = [np.concatenate((getattr(one, name), getattr(other, name))) for name in vars(one)]
    order = np.argsort(columns[0], kind="stable")
    return Pieces(*(column[order] for column in columns))


def merged(pieces: Pieces, vma: Numbers) -> tuple[Pieces, Numbers]:
    """Put ranges together that go on in memory, in the file and in the VMA."""
    if not len(pieces.start):
        return pieces, vma
    same = (pieces.start[1:] == pieces.end[:-1]) & (vma[1:] == vma[:-1])
    same &= (pieces.layer[1:] == pieces.layer[:-1]) & (pieces.how[1:] == pieces.how[:-1])
    goes_on = pieces.offset[1:] - pieces.offset[:-1] == pieces.start[1:] - pieces.start[:-1]
    same &= goes_on | (pieces.offset[1:] == -1)
    first = np.concatenate(([True], ~same))
    last = np.concatenate((~same, [True]))
    found = Pieces(pieces.start[first], pieces.end[last], pieces.layer[first], pieces.offset[first], pieces.how[first])
    return found, vma[first]


def lazy_of(layer: Layer, vma_start: Numbers, vma_end: Numbers, mm_name: str) -> tuple[LazyRanges, Pieces]:
    """The lazy ranges of a task, and the pieces that they were made of."""
    entries = layer.entries
    lazy = np.flatnonzero(entries.flags & PE_LAZY)
    start, end = entries.start[lazy], entries.end[lazy]
    in_vmas = overlaps(start, end, vma_start, vma_end)
    at = uncovered(start, end, in_vmas)
    if at is not None:
        raise ImageError(layer.name, f"the lazy page at {at:#x} lies outside all VMAs of {mm_name}")
    layers: list[Layer] = []
    pieces = followed(layer, in_vmas[0], in_vmas[1], lazy[in_vmas[2]], layers)
    vma = in_vmas[3] if len(layers) == 1 else np.searchsorted(vma_end, pieces.start, side="right")
    ranges, vma = merged(pieces, vma)
    return LazyRanges(ranges, vma, [str(one.pages_path) for one in layers]), pieces


def eager_of(layer: Layer) -> Pieces:
    """The pieces of a task that the restore itself installs."""
    return _pieces_of(layer, np.flatnonzero((layer.entries.flags & PE_LAZY) == 0))


def all_of(layer: Layer) -> Pieces:
    """All pieces: shared memory is never lazy, whatever its flags say."""
    return _pieces_of(layer, np.arange(layer.entries.count))


def _pieces_of(layer: Layer, eager: Numbers) -> Pieces:
    entries = layer.entries
    return followed(layer, entries.start[eager], entries.end[eager], eager, [])
