"""The mappings of a task, from its mm image."""

import mmap
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from pyuffd.criu.columns import WORTHWHILE, Columns, IrregularError, Numbers
from pyuffd.criu.entries import HIGHEST_ADDRESS
from pyuffd.criu.errors import ImageError
from pyuffd.criu.schema import (
    MM_MAGIC,
    VMA_ANON_PRIVATE,
    VMA_ANON_SHARED,
    VMA_AREA_GUARD,
    VMA_AREA_SYSVIPC,
    VMA_AREA_VDSO,
    VMA_AREA_VSYSCALL,
    VMA_AREA_VVAR,
    VMA_FILE_SHARED,
)
from pyuffd.criu.wire import Image, cut, parsed

# Of <asm-generic/mman-common.h>.
_MAP_SHARED = 0x01
_MAP_PRIVATE = 0x02
_MAP_ANONYMOUS = 0x20
_MAP_LOCKED = 0x2000
_MAP_HUGETLB = 0x40000
_MAP_HUGE_SHIFT = 26

_VMA_TAG = 0x72  # field 14, a message
_START_TAG, _END_TAG = 0x08, 0x10
_FIELDS = attrgetter("start", "end", "pgoff", "shmid", "prot", "flags", "status")


class Vma(NamedTuple):
    """A mapping, as the mm image has it.

    Attributes:
        start: Its first address.
        end: The address behind it.
        pgoff: The offset in its file, or in its shared memory.
        shmid: The number of its file, or of its shared memory.
        prot: ``PROT_`` bits.
        flags: ``MAP_`` bits.
        status: ``VMA_`` bits of criu/include/image.h.
    """

    start: int
    end: int
    pgoff: int
    shmid: int
    prot: int
    flags: int
    status: int

    @property
    def anonymous(self) -> bool:
        """Whether no file is behind it."""
        return bool(self.flags & _MAP_ANONYMOUS or self.status & (VMA_ANON_PRIVATE | VMA_ANON_SHARED))

    @property
    def private(self) -> bool:
        """Whether what the task writes is its own."""
        return bool(self.flags & _MAP_PRIVATE)

    @property
    def shared(self) -> bool:
        """Whether other tasks see what the task writes."""
        shared = VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_AREA_SYSVIPC
        return bool(self.flags & _MAP_SHARED or self.status & shared)

    @property
    def hugetlb(self) -> bool:
        """Whether it has huge pages of hugetlbfs."""
        return bool(self.flags & _MAP_HUGETLB)

    @property
    def page_size(self) -> int:
        """The size of its pages in bytes; 0 where they are huge pages of the system's default size."""
        if not self.hugetlb:
            return mmap.PAGESIZE
        exponent = self.flags >> _MAP_HUGE_SHIFT & 0x3F
        return 1 << exponent if exponent else 0

    @property
    def can_be_lazy(self) -> bool:
        """Whether CRIU registers it with userfaultfd: vma_entry_can_be_lazy() of criu/include/vma.h, version 4.2."""
        special = VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL
        plain = not self.flags & (_MAP_LOCKED | _MAP_HUGETLB) and not self.status & special
        return plain and bool(self.flags & _MAP_ANONYMOUS and self.flags & _MAP_PRIVATE)


def vmas_of(name: str, data: bytes, version: int) -> list[Vma]:
    """Every mapping, as the image has it; an error where one of them is damaged."""
    mm = cut(name, data, MM_MAGIC, version).sole("mm_entry")
    return [Vma(*_FIELDS(one)) for one in mm.vmas]


class Vmas:
    """Where the mappings of a task lie.

    Attributes:
        start: The first address of each, without those that pages never lie in (vsyscall, guards).
        end: The address behind each.
    """

    def __init__(self, name: str, data: bytes, version: int) -> None:
        image = cut(name, data, MM_MAGIC, version)
        self._name = name
        vmas = image.sole("mm_outline").vmas
        self.start, self.end = self._checked(vmas, *(_quick_borders(image, len(vmas)) or self._borders(vmas)))

    def _checked(self, vmas: Any, start: Any, end: Any) -> tuple[Numbers, Numbers]:
        """Refuse what lies wrongly; the special ones, which may, are left out."""
        first, last = start.astype(np.int64), end.astype(np.int64)  # those that are too large become negative
        odd = (last > HIGHEST_ADDRESS) | (first < 0) | (first >= last) | ((first | last) & (mmap.PAGESIZE - 1) != 0)
        odd[1:] |= first[1:] < np.maximum.accumulate(last)[:-1]
        for index in np.flatnonzero(odd).tolist():
            if not self._parsed(vmas, index).status & (VMA_AREA_VSYSCALL | VMA_AREA_GUARD):
                raise self._refused(index, start, end)
        return first[~odd], last[~odd]

    def _borders(self, vmas: Any) -> tuple[Any, Any]:
        """First addresses and ends, taken one by one."""
        found = (self._parsed(vmas, index) for index in range(len(vmas)))
        borders = np.array([(one.start, one.end) for one in found], np.uint64).reshape(-1, 2)
        return borders[:, 0], borders[:, 1]

    def _parsed(self, vmas: Any, index: int) -> Any:
        return parsed("vma_entry", vmas[index], self._name, f"vmas[{index}]")

    def _refused(self, index: int, start: Any, end: Any) -> ImageError:
        first, last = int(start[index]), int(end[index])
        what = f"vmas[{index}]: {first:#x} to {last:#x}"
        if first % mmap.PAGESIZE or last % mmap.PAGESIZE:
            return ImageError(self._name, f"{what} is not aligned to pages of {mmap.PAGESIZE} bytes")
        if first >= last:
            return ImageError(self._name, f"{what} is empty or backwards")
        if last > HIGHEST_ADDRESS:
            return ImageError(self._name, f"{what} lies above {HIGHEST_ADDRESS:#x}")
        return ImageError(self._name, f"{what} overlaps the one before it, or lies before it")


def _quick_borders(image: Image, count: int) -> tuple[Any, Any] | None:
    """Guess where each mapping begins, and prove that each leads to the next, up to the number that there is."""
    if count < WORTHWHILE:
        return None
    found = np.frombuffer(image.data, np.uint8)[int(image.starts[0]) :]
    at = np.flatnonzero(found[:-2] == _VMA_TAG)
    at = at[found[at + 2] == _START_TAG]
    if len(at) != count:
        return None
    lengths = found[at + 1].astype(np.int64)
    after = at + 2 + lengths
    if (lengths >= 0x80).any() or (after[:-1] != at[1:]).any() or after[-1] > len(found):
        return None
    columns = Columns(image.data, at + 2 + int(image.starts[0]), after + int(image.starts[0]))
    try:
        borders = [columns.take() for tag in (_START_TAG, _END_TAG) if columns.has(tag)]
    except IrregularError:
        return None
    return (borders[0], borders[1]) if len(borders) == 2 else None
