"""Memory to be managed: ranges kept apart by unmapped gaps, so that each is a VMA of its own."""

import ctypes
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyuffd
from pyuffd import _workload

from .axes import PAGE

Range = tuple[int, int]

_PROT_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MAP_NORESERVE, _MAP_FIXED = 0x4000, 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_apart(lengths: Sequence[int], *, cached: bool = False) -> list[Range]:
    """Map anonymous memory, one range of each length, with an unmapped page before and behind each.

    So each is a VMA of its own, whatever else is mapped.

    Args:
        lengths: In bytes.
        cached: Map shared memory whose pages are in the page cache, and not mapped: their faults are minor.

    Returns:
        (start, length) of each, all of them missing.
    """
    whole = PAGE + sum(lengths) + len(lengths) * PAGE
    start = _map(whole, shared=cached)
    if cached:
        _workload.native_touch(start, whole, PAGE)
        _workload.release_pages(start, whole)
    _unmap(start, PAGE)
    start += PAGE
    ranges = []
    for length in lengths:
        ranges.append((start, length))
        _unmap(start + length, PAGE)
        start += length + PAGE
    return ranges


def map_anew(start: int, length: int) -> None:
    """Map fresh anonymous memory in place of what is there."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
    if _libc.mmap(start, length, _PROT_READ_WRITE, flags, -1, 0) != start:
        raise _last_error(f"mmap of {length} bytes at {start:#x}")


def map_private(fd: int, length: int) -> int:
    """Map a file's beginning privately, writable; returns where."""
    start: int = _libc.mmap(None, length, _PROT_READ_WRITE, mmap.MAP_PRIVATE, fd, 0)
    if start == ctypes.c_void_p(-1).value:
        raise _last_error(f"mmap of {length} bytes of a file")
    return start


def unmap(ranges: Iterable[Range]) -> None:
    """Unmap ranges that ``map_apart()`` made; what has been mapped into their gaps meanwhile stays."""
    for start, length in ranges:
        _unmap(start, length)


def count_vmas(ranges: Sequence[Range]) -> int:
    """How many VMAs of this process lie in the ranges, by /proc/self/maps."""
    first, last = ranges[0][0], sum(ranges[-1])
    lines = Path("/proc/self/maps").read_text().splitlines()
    starts = (int(line.split("-", 1)[0], 16) for line in lines)
    return sum(first <= start < last for start in starts)


def rss_anon() -> int:
    """Bytes of this process's resident anonymous memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kib) * 1024


def lack_of(length: int) -> str:
    """Why this machine cannot give so many bytes of memory; empty where it can."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    free = found["MemAvailable"]
    return "" if free >= length else f"needs {length >> 20} MiB of memory, and {free >> 20} MiB are available"


class Pattern:
    """Resident bytes, no two pages alike, that both arms of a benchmark copy from."""

    def __init__(self, length: int) -> None:
        self._mapping = pyuffd.Mapping(length)
        _workload.fill_pattern(self.address, length, seed=1)
        self.source = pyuffd.MemorySource(self._mapping.array.data)

    def write(self, path: Path) -> None:
        """Make a file of them."""
        self._mapping.array.tofile(path)

    @property
    def address(self) -> int:
        """Where the bytes are in this process."""
        return self._mapping.address


def _map(length: int, *, shared: bool) -> int:
    flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    start: int = _libc.mmap(None, length, _PROT_READ_WRITE, flags, -1, 0)
    if start == ctypes.c_void_p(-1).value:
        raise _last_error(f"mmap of {length} bytes")
    return start


def _unmap(start: int, length: int) -> None:
    if _libc.munmap(start, length) != 0:
        raise _last_error(f"munmap of {length} bytes at {start:#x}")


def _last_error(what: str) -> OSError:
    error = ctypes.get_errno()
    return OSError(error, f"{what}: {os.strerror(error)}")
