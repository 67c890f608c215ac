"""Memory of this process that faults, and the bytes that it shall have.

A Python thread that touches a missing page sleeps with the GIL held. So pages that may be missing are touched by C++
threads (``Managed.touch``), or in a ``Child``.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.random import default_rng  # not at its first use: a child may not read its file then

import pyuffd
from pyuffd import _core, _workload

PAGE: int = _core.page_size()


def random_bytes(length: int, seed: int = 1) -> bytes:
    return default_rng(seed).bytes(length)


def readable(address: int, length: int = 1) -> bool:
    """A kernel access; False for poisoned memory. Never for memory that is missing."""
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        return len(os.pread(fd, length, address)) == length
    except OSError:
        return False
    finally:
        os.close(fd)


def huge_bytes(start: int, pid: int | str = "self") -> int:
    """AnonHugePages of the mapping at this address."""
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line[0].islower() or line[0].isdigit():
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            inside = first <= start < last
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no mapping at {start:#x}")


class Managed:
    """A mapping to be managed, and the bytes that it shall have: no two pages of it are equal."""

    def __init__(
        self,
        pages: int = 32,
        seed: int = 1,
        kind: Literal["anonymous", "memfd", "hugetlb"] = "anonymous",
        shared: bool = False,
    ) -> None:
        page_size = pyuffd.probe().hugetlb_page_size if kind == "hugetlb" else PAGE
        self.mapping = pyuffd.Mapping(pages * page_size, kind, shared)
        self.page: int = self.mapping.page_size
        self.pages = pages
        self.start: int = self.mapping.address
        self.length: int = self.mapping.length
        self.data = random_bytes(self.length, seed)
        self.source = pyuffd.MemorySource(self.data)
        self._sums: npt.NDArray[np.uint64] = _workload.checksums_of(self.data, self.page)
        self._zeros: npt.NDArray[np.uint64] = _workload.checksums_of(bytes(self.page), self.page)

    def at(self, page: int) -> int:
        return self.start + page * self.page

    def region(self, first: int = 0, pages: int | None = None, source: pyuffd.Source | None = None) -> pyuffd.Region:
        pages = self.pages - first if pages is None else pages
        offset = first * self.page
        return pyuffd.Region(self.at(first), pages * self.page, source or self.source, offset, self.page)

    def serve(self, **options: Any) -> pyuffd.Target:
        return pyuffd.serve(pyuffd.Userfaultfd(), [self.region()], **options)

    def toucher(self, first: int = 0, pages: int | None = None, **options: Any) -> _workload.Toucher:
        """Start threads that touch the pages and verify them; join them."""
        pages = self.pages - first if pages is None else pages
        options.setdefault("timeline_bins", 10)
        if options.pop("verified", True):
            options.setdefault("checksums", self._sums[first : first + pages])
        toucher = _workload.Toucher([(self.at(first), pages * self.page)], page_size=self.page, **options)
        toucher.start()
        return toucher

    def touch(self, first: int = 0, pages: int | None = None, **options: Any) -> _workload.Touches:
        """Touch the pages; every one must have its bytes."""
        touches = self.toucher(first, pages, **options).join()
        assert touches.wrong_pages == 0, [hex(address) for address in touches.wrong_addresses]
        return touches

    def state(self, page: int) -> str:
        """``right``, ``zero`` or ``wrong``; of a page that is present, or was released."""
        total = int(_workload.checksums(self.at(page), self.page, self.page)[0])
        if total == int(self._sums[page]):
            return "right"
        return "zero" if total == int(self._zeros[0]) else "wrong"

    def states(self) -> list[str]:
        return [self.state(page) for page in range(self.pages)]
