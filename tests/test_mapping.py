"""Mapping: owned ranges of memory, and the arrays that view them."""

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.memory import PAGE

import pyuffd


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_kinds(kind: Any, shared: bool) -> None:
    with pyuffd.Mapping(3 * PAGE - 5, kind, shared) as mapping:
        assert mapping.length == 3 * PAGE
        assert mapping.page_size == PAGE
        assert mapping.address % PAGE == 0
        assert not mapping.array.any()
        line = next(
            line
            for line in Path("/proc/self/maps").read_text().splitlines()
            if int(line.split("-")[0], 16) <= mapping.address < int(line.split("-")[1].split()[0], 16)
        )
        assert line.split()[1] == ("rw-s" if shared else "rw-p")
        assert ("pyuffd" in line) == (kind == "memfd")
        assert f"address={mapping.address:#x} length={3 * PAGE} page_size={PAGE}" in repr(mapping)
    assert mapping.closed


@pytest.mark.requires_hugetlb
@pytest.mark.usefixtures("huge_pages")
def test_hugetlb() -> None:
    huge = pyuffd.probe().hugetlb_page_size
    with pyuffd.Mapping(huge + 1, "hugetlb") as mapping:
        assert mapping.page_size == huge
        assert mapping.length == 2 * huge


def test_no_huge_pages() -> None:
    if not pyuffd.probe().hugetlb_page_size:
        pytest.skip("this kernel has no hugetlb pages")
    with pytest.raises(OSError, match=r"reserve 1048576 pages with the sysctl vm.nr_hugepages"):
        pyuffd.Mapping(pyuffd.probe().hugetlb_page_size << 20, "hugetlb")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "length is 0"),
        ((-5,), ValueError, "length is -5"),
        ((1 << 64,), ValueError, "length is"),
        ((1 << 63,), ValueError, "too large"),
        ((1 << 60,), OSError, r"cannot map 1152921504606846976 bytes: .*RLIMIT_AS"),
        ((PAGE, "file"), ValueError, "kind is 'file'; it must be one of 'anonymous', 'memfd', 'hugetlb'"),
        (("4096",), TypeError, "it must be an integer"),
        ((1.5,), TypeError, "it must be an integer"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pyuffd.Mapping(*arguments)


def test_an_array_is_a_view_that_keeps_the_memory() -> None:
    mapping = pyuffd.Mapping(2 * PAGE)
    first, second = mapping.array, mapping.array
    assert first.dtype == np.uint8
    assert first.shape == (2 * PAGE,)
    assert first.flags.writeable
    first[7] = 9
    assert second[7] == 9
    part = first[5:10]
    with pytest.raises(BufferError, match="2 arrays still view this mapping"):
        mapping.close()
    del first, second
    with pytest.raises(BufferError, match="1 arrays"):  # the slice keeps its base
        mapping.close()
    assert not mapping.closed
    assert part[2] == 9
    del part
    mapping.close()
    mapping.close()


def test_an_array_outlives_the_handle() -> None:
    array = pyuffd.Mapping(PAGE).array
    gc.collect()
    array[:] = 3
    assert array.sum() == 3 * PAGE


def test_leaving_the_block_with_a_view_alive_is_an_error() -> None:
    mapping = pyuffd.Mapping(PAGE)
    array = mapping.array
    with pytest.raises(BufferError), mapping:
        pass
    del array
    mapping.close()


def test_use_after_close() -> None:
    mapping = pyuffd.Mapping(PAGE)
    mapping.close()
    assert repr(mapping) == "<pyuffd.Mapping closed>"
    for name in ("address", "length", "page_size", "array"):
        with pytest.raises(ValueError, match="this mapping is closed"):
            getattr(mapping, name)
    with mapping:
        pass


def test_a_served_mapping_is_not_closed() -> None:
    memory = pyuffd.Mapping(4 * PAGE)
    target = pyuffd.serve(pyuffd.Userfaultfd(), [pyuffd.Region.of(memory, pyuffd.ZeroSource())])
    with pytest.raises(RuntimeError, match="is served, and its target misses 4 pages: close the target"):
        memory.close()
    target.close("fill")
    memory.close()


def test_a_region_keeps_its_memory() -> None:
    source = pyuffd.MemorySource(b"\5" * 2 * PAGE)
    memory = pyuffd.Mapping(2 * PAGE)
    address = memory.address
    region = pyuffd.Region.of(memory, source)
    del memory
    with pyuffd.serve(pyuffd.Userfaultfd(), [region]) as target:
        target.fill()
        target.wait()
        assert ctypes.string_at(address, 2 * PAGE) == b"\5" * 2 * PAGE


def test_a_region_of_an_array() -> None:
    memory = pyuffd.Mapping(4 * PAGE)
    region = pyuffd.Region.of(memory.array[PAGE : 3 * PAGE], pyuffd.ZeroSource())
    assert (region.start, region.length) == (memory.address + PAGE, 2 * PAGE)
    with pytest.raises(BufferError):
        memory.close()
    del region
    memory.close()


def test_a_region_is_of_whole_pages() -> None:
    with pyuffd.Mapping(4 * PAGE) as memory, pytest.raises(ValueError, match="must be multiples of page_size"):
        pyuffd.Region.of(memory.array[1 : PAGE + 1], pyuffd.ZeroSource())
