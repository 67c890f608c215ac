"""The entries of a pagemap, as columns: by numpy where they are alike, else one by one by protobuf."""

from dataclasses import dataclass

import numpy as np

from pyuffd.criu.blocks import Blocks, blocks_of
from pyuffd.criu.columns import WORTHWHILE, Columns, IrregularError, Numbers, padded
from pyuffd.criu.errors import ImageError
from pyuffd.criu.schema import PE_LAZY, PE_PARENT, PE_PAYLOAD_ALIGNED, PE_PRESENT
from pyuffd.criu.wire import Image

# No address of a task is above it: 57 bits of address, of which the kernel has one.
HIGHEST_ADDRESS = 1 << 56
_KNOWN = PE_PARENT | PE_LAZY | PE_PRESENT | PE_PAYLOAD_ALIGNED
_TAGS = {"vaddr": 0x08, "compat_nr_pages": 0x10, "flags": 0x20, "nr_pages": 0x28}


@dataclass(frozen=True)
class Entries:
    """What a pagemap says.

    Attributes:
        start: The first address of each entry.
        end: The address behind each entry.
        flags: ``PE_PARENT``, ``PE_LAZY``, ``PE_PRESENT`` and ``PE_PAYLOAD_ALIGNED``.
        blocks: The blocks of the compressed ones, by their number.
        wide: Whether they have ``nr_pages`` of 64 bits, as CRIU writes since September 2025 (commit 7e0da4d97).
    """

    start: Numbers
    end: Numbers
    flags: Numbers
    blocks: dict[int, Blocks]
    wide: bool = True

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.start)

    def offsets(self, page_size: int) -> Numbers:
        """Where the pages of each entry begin in the pages file, and at last where the file ends.

        The payloads of present entries follow one another; criu/pagemap.c steps through them in the same way.
        """
        stored = np.where(self.flags & PE_PRESENT, self.end - self.start, 0)
        for number, blocks in self.blocks.items():
            stored[number] = blocks.stored
        if not (self.flags & PE_PAYLOAD_ALIGNED).any():
            return np.concatenate(([0], np.cumsum(stored)))
        at, offsets = 0, []
        for flags, length in zip(self.flags.tolist(), stored.tolist(), strict=True):
            at = -(-at // page_size) * page_size if flags & PE_PAYLOAD_ALIGNED else at
            offsets.append(at)
            at += length
        return np.array([*offsets, at], np.int64)


def entries_of(image: Image, page_size: int, *, may_compress: bool) -> Entries:
    """Parse and check the entries, which are all messages but the first.

    Args:
        image: A pagemap image.
        page_size: Of the machine.
        may_compress: Whether the version of the images permits compressed pages.
    """
    try:
        found = _alike(image)
    except IrregularError:
        found = None
    if found is None:
        return _one_by_one(image, page_size, may_compress)
    start, pages, flags, wide = found
    wrong = (start % page_size != 0) | (pages <= 0) | (pages > HIGHEST_ADDRESS // page_size)
    end = start + pages * page_size
    wrong |= (
        (start < 0)
        | (start > HIGHEST_ADDRESS)
        | (end > HIGHEST_ADDRESS)
        | (flags & ~(PE_LAZY | PE_PRESENT | PE_PARENT) != 0)
    )
    wrong |= (flags & (PE_PRESENT | PE_PARENT) == PE_PRESENT | PE_PARENT) | (flags == 0)
    wrong[1:] |= start[1:] < end[:-1]
    if wrong.any():
        return _one_by_one(image, page_size, may_compress)  # it says which, and why
    return Entries(start, end, flags, {}, wide)


def _alike(image: Image) -> tuple[Numbers, Numbers, Numbers, bool] | None:
    """First address, pages and flags of entries that all have the same fields in the usual order."""
    starts = image.starts[1:]
    if len(starts) < WORTHWHILE:
        return None
    columns = Columns(padded(image.data), starts, starts + image.lengths[1:])
    found = {name: columns.take().astype(np.int64) for name, tag in _TAGS.items() if columns.has(tag)}
    if not columns.done or "vaddr" not in found or "compat_nr_pages" not in found:
        return None
    if (found["compat_nr_pages"] >> 32).any():
        return None
    flags = found.get("flags", np.full(len(starts), PE_PRESENT, np.int64))
    return found["vaddr"], found.get("nr_pages", found["compat_nr_pages"]), flags, "nr_pages" in found


def _one_by_one(image: Image, page_size: int, may_compress: bool) -> Entries:
    rows, blocks, before, wide = [], {}, 0, True
    for number in range(1, len(image.starts)):
        entry = _Entry(image, number, page_size, before)
        if entry.compressed:
            blocks[number - 1] = entry.blocks(may_compress)
        rows.append((entry.start, entry.end, entry.flags))
        before, wide = entry.end, entry.wide
    start, end, flags = np.array(rows, np.int64).reshape(-1, 3).T
    return Entries(start, end, flags, blocks, wide)


class _Entry:
    """One entry, checked; what is wrong names its number."""

    def __init__(self, image: Image, number: int, page_size: int, before: int) -> None:
        self._name, self._number, self._page_size = image.name, number, page_size
        self._found = image.message(number, "pagemap_entry")
        size = self._found.ByteSize()
        self._found.DiscardUnknownFields()
        if self._found.ByteSize() != size:
            raise self._refuse("it has fields that pyuffd does not know (encryption, or an unreleased CRIU)")
        self.flags = self._effective_flags()
        self.start = self._found.vaddr
        self.wide = self._found.HasField("nr_pages")
        self.pages = self._found.nr_pages if self.wide else self._found.compat_nr_pages
        self.end = self.start + self.pages * page_size
        self.compressed = self._found.HasField("blocks")
        self._check_range(before)
        self._check_flags()

    def blocks(self, may_compress: bool) -> Blocks:
        if not may_compress:
            raise self._refuse("it is compressed, and img_version of the inventory permits that from 3 on")
        return blocks_of(self._found.blocks, self.pages, self._page_size, self._refuse)

    def _effective_flags(self) -> int:
        """As init_compat_pagemap_entry() of criu/pagemap.c takes them."""
        flags: int = self._found.flags
        if self._found.in_parent:
            return flags | PE_PARENT
        return flags if self._found.HasField("flags") else PE_PRESENT

    def _check_range(self, before: int) -> None:
        if self.start % self._page_size:
            raise self._refuse(f"vaddr {self.start:#x} is no multiple of the page size {self._page_size}")
        if not self.pages:
            raise self._refuse("nr_pages is 0")
        if self.end > HIGHEST_ADDRESS:
            raise self._refuse(f"vaddr {self.start:#x} with nr_pages {self.pages} ends above {HIGHEST_ADDRESS:#x}")
        if self.start < before:
            raise self._refuse(f"vaddr {self.start:#x} lies before {before:#x}, where the entry before it ends")

    def _check_flags(self) -> None:
        if self.flags & ~_KNOWN or not self.flags:
            raise self._refuse(f"flags are {self.flags:#x}, which pyuffd does not know")
        if self.flags & PE_PRESENT and self.flags & PE_PARENT:
            raise self._refuse(f"flags are {self.flags:#x}: both PE_PRESENT and PE_PARENT")
        if not self.flags & PE_PRESENT and (self.compressed or self.flags & PE_PAYLOAD_ALIGNED):
            raise self._refuse(f"flags are {self.flags:#x}: it has compressed pages, but not PE_PRESENT")

    def _refuse(self, what: str) -> ImageError:
        return ImageError(self._name, f"entry {self._number}: {what}")
