"""Files that are read past the page cache, and huge pages that are moved into memory."""

import mmap
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulting import PAGE, Child, Managed, random_bytes

import pyuffd
from pyuffd import _core

HUGE = 2 << 20
MOVE = pyuffd.Feature.MOVE


@pytest.fixture(scope="module")
def data() -> bytes:
    return random_bytes(4 * HUGE + 3 * PAGE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> Path:
    path = tmp_path_factory.mktemp("direct") / "image"
    path.write_bytes(data)
    try:
        pyuffd.FileSource(path, direct=True)
    except pyuffd.UnsupportedError:
        pytest.skip("the file system of temporary files does not do O_DIRECT")
    return path


def serve(mapping: pyuffd.Mapping, source: pyuffd.Source, offset: int = 0, features: int = 0, **options: Any) -> Any:
    region = pyuffd.Region(mapping.address, mapping.length, source, offset)
    return pyuffd.serve(pyuffd.Userfaultfd(features), [region], **options)


needs_move = pytest.mark.skipif(not _core.offered_features() & MOVE, reason="this kernel lacks UFFDIO_MOVE (Linux 6.8)")


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize("features", [0, pytest.param(int(MOVE), marks=needs_move)])
@pytest.mark.parametrize("offset", [0, PAGE, 100, HUGE - 1])
@pytest.mark.parametrize("by", ["fill", "touch", "both"])
def test_own_memory(path: Path, data: bytes, features: int, offset: int, by: str) -> None:
    length = 3 * HUGE
    mapping = pyuffd.Mapping(length)
    sums = pyuffd._workload.checksums_of(data[offset : offset + length], PAGE)
    with serve(mapping, pyuffd.FileSource(path, direct=True), offset, features) as target:
        if by != "touch":
            target.fill()
        if by != "fill":
            toucher = pyuffd._workload.Toucher(
                [(mapping.address, length)], checksums=sums, threads=2, order="random" if by == "both" else "sequential"
            )
            toucher.start()
            assert toucher.join().wrong_pages == 0
        assert target.wait(20, progress=False)
        stats, report = target.stats(), target.close()
    assert mapping.array.tobytes() == data[offset : offset + length]
    assert report.poisoned == ()
    assert stats.fetches > 0
    if by == "fill":
        assert (stats.moves > 0) is bool(features)


@pytest.mark.requires_full_userfaultfd
@needs_move
@pytest.mark.parametrize("install", ["auto", "copy", "move"])
def test_moved_memory_is_huge(path: Path, data: bytes, install: Any) -> None:
    mapping = pyuffd.Mapping(4 * HUGE)
    with serve(mapping, pyuffd.FileSource(path, direct=True), 0, int(MOVE), install=install) as target:
        target.fill()
        assert target.wait(20, progress=False)
        stats = target.stats()
    assert mapping.array.tobytes() == data[: 4 * HUGE]
    aligned = mapping.length // HUGE - (mapping.address % HUGE != 0)
    assert stats.moves == (0 if install == "copy" else aligned)
    # What was moved from is fresh: nothing of it is shared with other pages.
    mapping.array[:] ^= 255
    assert (np.frombuffer(data[: 4 * HUGE], np.uint8) ^ 255 == mapping.array).all()


@pytest.mark.requires_full_userfaultfd
@needs_move
def test_other_memory_falls_back_to_copies(path: Path, data: bytes) -> None:
    mapping = pyuffd.Mapping(3 * HUGE, "memfd", True)
    with serve(mapping, pyuffd.FileSource(path, direct=True), 0, int(MOVE)) as target:
        target.fill()
        assert target.wait(20, progress=False)
        assert target.stats().moves == 0
    assert mapping.array.tobytes() == data[: 3 * HUGE]


@pytest.mark.requires_full_userfaultfd
def test_another_process(path: Path, data: bytes) -> None:
    import zlib

    code = """
import zlib
sock = socket.socket(fileno=int(sys.argv[1]))
mapping = pyuffd.Mapping(int(sys.argv[2]))
pyuffd.handoff.send(sock, pyuffd.Userfaultfd(), [(mapping.address, mapping.length, 0, PAGE)])
tell(zlib.crc32(mapping.array))
"""
    ours, theirs = socket.socketpair()
    with ours, theirs, Child(code, theirs.fileno(), 3 * HUGE, sockets=[theirs]) as child:
        got = pyuffd.handoff.receive(ours, pyuffd.FileSource(path, direct=True))
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
            target.fill()
            assert child.hear() == zlib.crc32(data[: 3 * HUGE])
            assert target.stats().moves == 0
        child.finish()


def test_the_page_cache_is_left_alone(path: Path, data: bytes) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        source = pyuffd.FileSource(path, direct=True)
        assert source.read(123, HUGE) == data[123 : 123 + HUGE]
        assert source.read(len(data) - 5, 5) == data[-5:]
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            resident = _resident(view.ctypes.data, len(data))
            del view
    assert resident < len(data) // PAGE // 4


def _resident(address: int, length: int) -> int:
    import ctypes

    pages = (length + PAGE - 1) // PAGE
    vector = (ctypes.c_ubyte * pages)()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), vector) == 0
    return sum(byte & 1 for byte in vector)


def test_lazy_array(path: Path, data: bytes) -> None:
    array = pyuffd.lazy_array(pyuffd.FileSource(path, direct=True), np.uint8, len(data))
    assert array[HUGE + 5] == data[HUGE + 5]
    target = pyuffd.target_of(array)
    target.fill()
    assert target.wait(20, progress=False)
    assert array.tobytes() == data


@pytest.mark.requires_full_userfaultfd
def test_a_file_that_shrank_is_poisoned(tmp_path: Path, path: Path) -> None:
    assert path
    shrinking = tmp_path / "shrinking"
    shrinking.write_bytes(random_bytes(100 * PAGE))
    mapping = pyuffd.Mapping(100 * PAGE)
    with serve(mapping, pyuffd.FileSource(shrinking, direct=True)) as target:
        os.truncate(shrinking, 60 * PAGE)
        target.fill()
        assert target.wait(20, progress=False)
        report = target.close()
    assert report.poisoned == ((mapping.address + 60 * PAGE, 40 * PAGE),)
    assert mapping.array[: 60 * PAGE].tobytes() == shrinking.read_bytes()


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize(
    ("features", "source", "kind", "words"),
    [
        (0, "direct", "anonymous", "without Feature.MOVE"),
        (int(MOVE), "mapped", "anonymous", "whose bytes are at hand"),
        (int(MOVE), "direct", "memfd", "not private anonymous memory"),
    ],
)
@needs_move
def test_moves_that_cannot_be(path: Path, features: int, source: str, kind: Any, words: str) -> None:
    mapping, uffd = pyuffd.Mapping(HUGE, kind), pyuffd.Userfaultfd(features)
    region = pyuffd.Region(mapping.address, HUGE, pyuffd.FileSource(path, direct=source == "direct"))
    with pytest.raises(ValueError, match=words):
        pyuffd.serve(uffd, [region], install="move")
    uffd.close()


@pytest.mark.requires_full_userfaultfd
def test_what_direct_is_not_for(path: Path) -> None:
    source = pyuffd.FileSource(path, direct=True)
    memory, uffd = Managed(pages=4), pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS)
    with pytest.raises(ValueError, match="bytes are at hand"):
        pyuffd.serve(uffd, [memory.region(source=source)], inline=True)
    uffd.close()
    with pytest.raises(ValueError, match="install is 'best'"):
        memory.serve(install="best")


def test_a_file_system_without_it_says_so() -> None:
    for place in ("/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"):
        if not Path(place).exists() or Path(place).stat().st_size == 0:
            continue
        with pytest.raises(pyuffd.UnsupportedError, match="give direct=False"):
            pyuffd.FileSource(place, direct=True)
