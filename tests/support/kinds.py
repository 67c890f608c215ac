"""The kinds of memory, and memory of a kind in a puppet with the bytes that it shall have."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

import pyuffd
from pyuffd import _workload, handoff
from support.memory import PAGE, random_bytes
from support.puppet import Puppet

HUGE_PAGE = pyuffd.probe().hugetlb_page_size


@dataclass(frozen=True)
class Kind:
    """A kind of memory, by its name for ``Puppet.map``.

    Attributes:
        name: Of it.
        pages: How many pages a test of it has.
        cached: Whether its pages lie in a page cache, where another mapping can write to them.
        shared: Whether forks and other mappings see what is written.
        huge: Whether its pages are those of a hugetlb pool.
    """

    name: str
    pages: int = 48
    cached: bool = False
    shared: bool = False
    huge: bool = False

    @property
    def page(self) -> int:
        return HUGE_PAGE if self.huge else PAGE

    @property
    def length(self) -> int:
        return self.pages * self.page


ANONYMOUS = Kind("anonymous")
THP = Kind("thp", pages=2 * HUGE_PAGE // PAGE if HUGE_PAGE else 1024)
SHARED = Kind("shared", shared=True)
MEMFD = Kind("memfd", cached=True, shared=True)
MEMFD_PRIVATE = Kind("memfd-private", cached=True)
HUGETLB = Kind("hugetlb", pages=2, huge=True)
HUGETLB_MEMFD = Kind("hugetlb-memfd", pages=2, cached=True, shared=True, huge=True)
KINDS = (ANONYMOUS, THP, SHARED, MEMFD, MEMFD_PRIVATE, HUGETLB, HUGETLB_MEMFD)


def of_kinds(kinds: Iterable[Kind] = KINDS) -> pytest.MarkDecorator:
    """Parametrize a test by ``kind``."""
    marked = [
        pytest.param(kind, id=kind.name, marks=[pytest.mark.requires_hugetlb] if kind.huge else []) for kind in kinds
    ]
    return pytest.mark.parametrize("kind", marked)


@functools.cache
def _content(length: int, page: int) -> tuple[bytes, list[int]]:
    data = random_bytes(length)
    return data, [int(total) for total in _workload.checksums_of(data, page)]


@functools.cache
def _zero_sum(page: int) -> int:
    return int(_workload.checksums_of(bytes(page), page)[0])


class Area:
    """Memory of a kind in a puppet; no two of its pages shall be equal."""

    def __init__(self, puppet: Puppet, kind: Kind) -> None:
        self.puppet = puppet
        self.kind = kind
        self.page = kind.page
        self.pages = kind.pages
        self.length = kind.length
        self.start = self._map()
        self.data, self.sums = _content(self.length, self.page)
        self.source: pyuffd.Source = pyuffd.MemorySource(self.data)
        self.data_address = int(np.frombuffer(self.data, np.uint8).ctypes.data)

    def _map(self) -> int:
        if self.kind != THP:
            return int(self.puppet.do("map", self.length, self.kind.name))
        align = HUGE_PAGE or self.length
        start = int(self.puppet.do("map", self.length + align, "anonymous"))
        return int(self.puppet.do("map", self.length, "thp", -(-start // align) * align))

    def at(self, page: int) -> int:
        return self.start + page * self.page

    def content(self, page: int) -> bytes:
        """The bytes that a page shall have."""
        return self.data[page * self.page : (page + 1) * self.page]

    def hand_over(
        self,
        source: pyuffd.Source | None,
        mode: handoff.Mode = "missing",
        features: int = 0,
        on_remove: Literal["auto", "keep", "zero", "poison"] = "auto",
    ) -> handoff.Handoff:
        regions = [(self.start, self.length, 0, self.page)]
        return self.puppet.hand_over(regions, source, features, mode, on_remove=on_remove)

    def hand_over_raw(self, modes: pyuffd.RegisterMode, features: int = 0) -> pyuffd.Userfaultfd:
        """Its userfaultfd, with the memory registered in these modes."""
        uffd = self.hand_over(self.source, features=features).uffd
        uffd.register(self.start, self.length, modes)
        return uffd

    def serve(self, source: pyuffd.Source | None = None, **options: Any) -> pyuffd.Target:
        """Serve it from this process: options of ``hand_over()`` and of ``pyuffd.serve()``."""
        chosen = {name: options.pop(name) for name in ("mode", "features", "on_remove") if name in options}
        cached_only = chosen.get("mode") == "minor"
        got = self.hand_over(source or (None if cached_only else self.source), **chosen)
        return pyuffd.serve(got.uffd, got.regions, pid=got.pid, **options)

    def begin_touches(self, first: int = 0, pages: int | None = None, **options: Any) -> None:
        """Have threads touch the pages, each all of them in an order of its own; ``end_touches()`` waits for them."""
        pages = self.pages - first if pages is None else pages
        options = {"threads": 4, "partition": "all", "order": "random", "timed": False} | options
        if options.pop("verified", True):
            options["checksums"] = self.sums[first : first + pages]
        self.puppet.do("begin_touches", self.at(first), pages * self.page, self.page, options)

    def end_touches(self) -> int:
        """Wait for the threads, none of which may have met wrong bytes; how often they touched a page."""
        touched, wrong = self.puppet.do("end_touches")
        assert [hex(address) for address in wrong] == []
        return int(touched)

    def touch(self, first: int = 0, pages: int | None = None, **options: Any) -> None:
        self.begin_touches(first, pages, **options)
        self.end_touches()

    def states(self, pages: Sequence[int] | None = None, puppet: Puppet | None = None, start: int = 0) -> list[str]:
        """``right``, ``zero`` or ``wrong`` of each page; by a read, of this or another puppet, here or elsewhere."""
        pages = range(self.pages) if pages is None else pages
        return [self._state(page, puppet or self.puppet, start or self.start) for page in pages]

    def _state(self, page: int, puppet: Puppet, start: int) -> str:
        (total,) = puppet.do("checksums", start + page * self.page, self.page, self.page)
        if total == self.sums[page]:
            return "right"
        return "zero" if total == _zero_sum(self.page) else "wrong"

    def write_cache(self, page: int) -> None:
        """Write the bytes that it shall have to the page cache, past the mapping."""
        self.puppet.do("write_file", page * self.page, self.content(page).hex())
