"""The measuring side: what it counts and times adds up, and a flipped bit is found."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.memory import PAGE, Managed
from support.state import until

import pyuffd
from pyuffd import _workload


@pytest.fixture
def mapping() -> pyuffd.Mapping:
    mapping = pyuffd.Mapping(64 * PAGE)
    _workload.fill_pattern(mapping.address, mapping.length, 7)
    return mapping


def test_patterns_come_back_from_their_seed(mapping: pyuffd.Mapping) -> None:
    first = mapping.array.tobytes()
    _workload.fill_pattern(mapping.address, mapping.length, 8)
    assert mapping.array.tobytes() != first
    _workload.fill_pattern(mapping.address, mapping.length, 7)
    assert mapping.array.tobytes() == first
    words = np.frombuffer(first, np.uint64)
    assert len(np.unique(words)) == len(words)
    with pytest.raises(ValueError, match="multiples of 8"):
        _workload.fill_pattern(mapping.address + 4, 8, 0)


def test_checksums_tell_pages_and_bits_apart(mapping: pyuffd.Mapping) -> None:
    before = _workload.checksums(mapping.address, mapping.length)
    assert len(np.unique(before)) == 64
    assert (before == _workload.checksums_of(mapping.array.tobytes())).all()
    for bit in (0, 7, PAGE * 8 - 1):
        mapping.array[9 * PAGE + bit // 8] ^= 1 << bit % 8
        after = _workload.checksums(mapping.address, mapping.length)
        assert np.flatnonzero(before != after).tolist() == [9]
        mapping.array[9 * PAGE + bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="not whole pages"):
        _workload.checksums(mapping.address, PAGE + 1)
    with pytest.raises(ValueError, match="page_size 48"):
        _workload.checksums(mapping.address, PAGE, 48)
    with pytest.raises(TypeError):
        _workload.checksums_of("text")  # type: ignore[arg-type]


def test_a_toucher_finds_the_wrong_page(mapping: pyuffd.Mapping) -> None:
    sums = _workload.checksums(mapping.address, mapping.length)
    mapping.array[5 * PAGE + 100] ^= 1
    for threads, partition in ((1, "split"), (3, "interleaved"), (2, "all")):
        toucher = _workload.Toucher(
            [(mapping.address, mapping.length)],
            checksums=sums,
            threads=threads,
            partition=partition,  # type: ignore[arg-type]
            timeline_bins=5,
        )
        toucher.start()
        touches = toucher.join()
        assert touches.wrong_pages == (2 if partition == "all" else 1)
        assert set(touches.wrong_addresses) == {mapping.address + 5 * PAGE}
        assert touches.touched == (128 if partition == "all" else 64)


def test_the_timeline_and_the_histogram_sum_to_the_touches(mapping: pyuffd.Mapping) -> None:
    toucher = _workload.Toucher(
        [(mapping.address, mapping.length)], threads=2, passes=50, timeline_bins=100, order="random", write=True
    )
    assert not toucher.running()
    toucher.start()
    touches = toucher.join()
    assert touches.touched == 50 * 64
    assert touches.histogram.sum() == touches.touched
    assert touches.timeline_count.sum() + touches.timeline_overflow == touches.touched
    assert touches.timeline_histogram.shape == (100, len(touches.histogram))
    assert (touches.timeline_histogram.sum(axis=1) == touches.timeline_count).all()
    assert touches.timeline_max_ns.max() <= touches.max_ns
    assert (touches.timeline_sum_ns >= touches.timeline_max_ns).all()
    assert max(touches.thread_elapsed_ns) <= touches.elapsed_ns
    assert len(touches.thread_elapsed_ns) == 2
    assert len(_workload.bucket_bounds()) == len(touches.histogram)
    assert _workload.BIN_NS == 1_000_000
    with pytest.raises(ValueError, match="read-only"):
        touches.histogram[0] = 1


def test_untimed_touches_log_nothing(mapping: pyuffd.Mapping) -> None:
    toucher = _workload.Toucher([(mapping.address, mapping.length)], timed=False)
    toucher.start()
    touches = toucher.join()
    assert touches.touched == 64
    assert touches.histogram.sum() == 0


@pytest.mark.requires_full_userfaultfd
def test_an_endless_toucher_stops() -> None:
    memory = Managed(pages=64)
    with memory.serve() as target:
        toucher = memory.toucher(passes=0, threads=2)
        until(lambda: target.missing_pages == 0)  # each page was touched once
        assert toucher.running()
        toucher.stop()
        assert toucher.join().touched >= memory.pages
        assert not toucher.running()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"threads": 65}, "too few for 65 threads"),
        ({"order": "stride", "stride": 0}, "stride must be at least 1"),
        ({"order": "backwards"}, "order is .*; it must be one of"),
        ({"partition": "none"}, "partition is .*; it must be one of"),
        ({"page_size": 48}, "page_size 48"),
        ({"checksums": np.zeros(3, np.uint64)}, "3 checksums for 64 pages"),
        ({"cpus": [100_000]}, "CPU 100000"),
    ],
    ids=str,
)
def test_bad_plans(mapping: pyuffd.Mapping, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _workload.Toucher([(mapping.address, mapping.length)], **options)


def test_a_toucher_is_used_once(mapping: pyuffd.Mapping) -> None:
    toucher = _workload.Toucher([(mapping.address, PAGE)], timeline_bins=1)
    with pytest.raises(RuntimeError, match="start first"):
        toucher.join()
    toucher.start()
    with pytest.raises(RuntimeError, match="once"):
        toucher.start()
    toucher.join()


@pytest.mark.parametrize("kind", ["fault", "mmap", "populate"])
def test_bystanders(kind: Any) -> None:
    found: list[_workload.Touches] = []

    def touch() -> bool:
        bystanders = _workload.Bystanders(kind, threads=2, pages=4, timeline_bins=100)
        bystanders.start()
        found.append(bystanders.stop())
        return found[-1].touched > 0

    until(touch, "a run in which they touched something before they were stopped")
    assert found[-1].histogram.sum() == found[-1].touched
    with pytest.raises(ValueError, match="pages"):
        _workload.Bystanders(kind, pages=0)


@pytest.mark.parametrize("reader", ["poll", "read", "spin"])
@pytest.mark.parametrize("window", [1, 4])
def test_the_floor_server(reader: Any, window: int) -> None:
    memory = Managed(pages=32)
    with pyuffd.Userfaultfd(user_mode_only=None) as uffd:
        uffd.register(memory.start, memory.length)
        os.set_blocking(uffd.fileno(), reader == "read")
        image = pyuffd.Mapping(memory.length)
        image.array[:] = np.frombuffer(memory.data, np.uint8)
        server = _workload.FloorServer(
            uffd.fileno(),
            start=memory.start,
            length=memory.length,
            source=image.address,
            copies=32 // window,
            window=window,
            reader=reader,
        )
        server.start()
        memory.touch()
        elapsed, faults = server.join()
    assert elapsed > 0
    assert faults == 32 // window


def test_the_floor_server_refuses_a_reader_that_does_not_suit() -> None:
    with pyuffd.Userfaultfd(user_mode_only=None) as uffd, pytest.raises(ValueError, match="O_NONBLOCK"):
        _workload.FloorServer(uffd.fileno(), start=0, length=PAGE, source=0, copies=1, reader="read")


@pytest.mark.parametrize("threads", [1, 3])
def test_bulk_copy(threads: int) -> None:
    memory = Managed(pages=50)
    address = int(np.frombuffer(memory.data, np.uint8).ctypes.data)
    with pyuffd.Userfaultfd(user_mode_only=None) as uffd:
        uffd.register(memory.start, memory.length)
        plan: dict[str, Any] = {"chunk": 7 * PAGE, "threads": threads}
        assert _workload.bulk_copy(uffd.fileno(), memory.start, address, memory.length, **plan) > 0
        with pytest.raises(FileExistsError, match="UFFDIO_COPY"):
            _workload.bulk_copy(uffd.fileno(), memory.start, address, memory.length, **plan)
        with pytest.raises(ValueError, match="chunk"):
            _workload.bulk_copy(uffd.fileno(), memory.start, address, memory.length, chunk=0)
    assert memory.states() == ["right"] * 50


def test_the_ending_floors() -> None:
    memory = Managed(pages=4)
    for unregister in (False, True):
        uffd = pyuffd.Userfaultfd(user_mode_only=None)
        uffd.register(memory.start, memory.length)
        fd = os.dup(uffd.fileno())
        uffd.close()
        ranges = [(memory.start, memory.length)]
        assert (_workload.unregister_and_close(fd, ranges) if unregister else _workload.close_fd(fd)) > 0
        with pytest.raises(OSError):
            os.fstat(fd)
    with pytest.raises(OSError):
        _workload.close_fd(fd)


def test_memory_floors(tmp_path: Path, mapping: pyuffd.Mapping) -> None:
    other = pyuffd.Mapping(mapping.length)
    assert _workload.native_touch(other.address, other.length, PAGE) > 0
    assert _workload.memcpy_floor(other.address, mapping.address, mapping.length) > 0
    assert other.array.tobytes() == mapping.array.tobytes()
    _workload.release_pages(other.address, other.length)
    assert not other.array.any()
    path = tmp_path / "image"
    path.write_bytes(mapping.array.tobytes())
    with path.open("rb") as file:
        assert _workload.read_floor(file.fileno(), other.address, other.length, chunk=5 * PAGE) > 0
        assert other.array.tobytes() == mapping.array.tobytes()
        with pytest.raises(ValueError, match="the file ends after"):
            _workload.read_floor(file.fileno(), other.address - 0, other.length + 1, chunk=other.length)


@pytest.mark.requires_root
def test_dma_latency() -> None:
    if not Path("/dev/cpu_dma_latency").exists():
        pytest.skip("no /dev/cpu_dma_latency here")
    with _workload.DmaLatency() as held:
        held.close()
