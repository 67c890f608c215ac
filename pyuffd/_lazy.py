"""Arrays whose pages load when they are touched."""

import functools
import math
import operator
import os
from collections.abc import Sequence
from mmap import PAGESIZE
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from pyuffd import _core
from pyuffd._arguments import check_flag, check_source
from pyuffd._core import Mapping, MemorySource, Region, Source, Userfaultfd
from pyuffd._flags import Feature
from pyuffd._inline import check_sigbus
from pyuffd._log import listener
from pyuffd._manager import make_core
from pyuffd._target import Target


class _LazyMemory:
    """The memory of a lazy array. It is the base object of the array, so it lives as long as any view of the array.

    When it is deleted, no thread can touch the memory any more, so ``owner`` discards its target.
    """

    def __init__(self, owner: Mapping | _core.ManagedMemory, address: int, target: Target | None, length: int) -> None:
        self.target = target
        self._owner = owner
        self.__array_interface__ = {
            "shape": (length,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


_manager: _core.Manager | None = None


def _shared_manager() -> _core.Manager:
    """Return the manager of all lazy arrays of this process."""
    global _manager
    if _manager is None:
        _manager = make_core(1, 1, "auto")
    return _manager


def _forget_manager_in_child() -> None:
    global _manager
    _manager = None


os.register_at_fork(after_in_child=_forget_manager_in_child)


def lazy_array(
    source: Source,
    dtype: npt.DTypeLike,
    shape: SupportsIndex | Sequence[SupportsIndex],
    *,
    inline: bool = False,
) -> npt.NDArray[Any]:
    """Make an array whose pages load from the source when they are touched.

    The array is ordinary private memory, and writes to it do not change the source. System calls on missing pages
    (file.readinto, write(2)) work if this user can open a full userfaultfd, and fail with EFAULT otherwise (see
    ``probe()``). A fork child does not inherit the array while pages are missing, and an access in the child is a
    segmentation fault. The array uses one file descriptor while pages are missing.

    Args:
        source: Where the bytes come from, beginning at offset 0.
        dtype: The type of the elements; no Python objects, and no type without a size.
        shape: The shape of the array.
        inline: Whether threads resolve their own faults. No other thread is then woken. System calls on missing pages
            fail with EFAULT unless ``touch()`` was called, and pyuffd takes over the SIGBUS of the process: see
            ``serve()``.

    Returns:
        A C-contiguous, writable array. ``target_of()`` returns its target, which can ``fill()`` and ``wait()``.

    Raises:
        ValueError: The source is shorter than the array, or the dtype holds objects or has no size.
        UnsupportedError: No userfaultfd can be opened.
    """
    check_source("source", source)
    check_flag("inline", inline)
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise ValueError(f"dtype {kind} holds Python objects, which no source can supply: give another dtype")
    if kind.itemsize == 0 or kind.subdtype is not None:
        raise ValueError(f"dtype {kind!r} has no size of its own: give a size, as in 'S8', and dimensions in the shape")
    dimensions = _dimensions(shape)
    length = kind.itemsize * math.prod(dimensions)
    if length > source.length:
        raise ValueError(
            f"an array of {kind} and shape {dimensions} has {length} bytes, but its source has {source.length}: give a "
            "smaller shape or a longer source"
        )
    if length == 0:
        return np.empty(dimensions, kind)
    memory = _lazy_memory(source, length, inline=inline)
    return np.asarray(memory).view(kind).reshape(dimensions)


def _dimensions(shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, Sequence) else (shape,)
    dimensions = tuple(operator.index(size) for size in sizes)
    if any(size < 0 for size in dimensions):
        raise ValueError(f"shape is {dimensions}; no dimension may be negative")
    return dimensions


@functools.cache
def _offered_move() -> int:
    return _core.offered_features() & Feature.MOVE


def _lazy_memory(source: Source, length: int, *, inline: bool) -> _LazyMemory:
    mapping = Mapping(length)
    managed = length - length % mapping.page_size
    if managed == 0:
        mapping.array[:length] = np.frombuffer(source.read(0, length), np.uint8)
        return _LazyMemory(mapping, mapping.address, None, length)
    # Nothing is written before the memory is registered, because a write can map a huge page of zeros.
    regions = [Region(mapping.address, managed, source)]
    if managed < length:
        regions.append(Region(mapping.address + managed, mapping.page_size, _last_page(source, managed, length)))
    uffd = Userfaultfd(Feature.SIGBUS if inline else _offered_move(), user_mode_only=None)
    check_sigbus()
    listener.begin()
    memory = _shared_manager().add_memory(mapping, uffd, regions, inline)
    target = Target(memory.target, owns_manager=False, owns_memory=True)
    return _LazyMemory(memory, mapping.address, target, length)


def _last_page(source: Source, offset: int, end: int) -> MemorySource:
    """Return a source of the last page: the last bytes of ``source``, and zeros behind them."""
    page = bytearray(PAGESIZE)
    page[: end - offset] = source.read(offset, end - offset)
    return MemorySource(page)


def target_of(array: npt.NDArray[Any]) -> Target:
    """Return the target of a lazy array, or of a view of a lazy array.

    Raises:
        ValueError: The array is not a lazy array, or is shorter than a page and was read at once.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, _LazyMemory) or base.target is None:
        raise ValueError("this array has no target: it was not made by lazy_array, or it is shorter than a page")
    return base.target
