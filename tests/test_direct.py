"""Files that are read past the page cache, and huge pages that are moved into memory."""

import ctypes
import mmap
import os
import socket
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import Child, tell
from support.memory import PAGE, Managed, huge_bytes, random_bytes

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


def another_process_child(fd: int, length: int) -> None:
    sock = socket.socket(fileno=fd)
    mapping = pyuffd.Mapping(length)
    pyuffd.handoff.send(sock, pyuffd.Userfaultfd(), [(mapping.address, mapping.length, 0, PAGE)])
    tell(zlib.crc32(mapping.array.data))


@pytest.mark.requires_full_userfaultfd
def test_another_process(path: Path, data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Child(another_process_child, theirs.fileno(), 3 * HUGE, sockets=[theirs]) as child:
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


def lock(mapping: pyuffd.Mapping) -> None:
    """Lock its pages as they come: mlock2(2)."""
    onfault = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock2(ctypes.c_void_p(mapping.address), ctypes.c_size_t(mapping.length), onfault) != 0:
        pytest.skip(f"mlock2: {os.strerror(ctypes.get_errno())}")


@pytest.mark.requires_full_userfaultfd
@needs_move
def test_writes_to_direct_pages_are_noted(path: Path, data: bytes) -> None:
    """A page that is moved in is not write-protected."""
    mapping = pyuffd.Mapping(4 * HUGE)
    start = -(-mapping.address // HUGE) * HUGE
    region = pyuffd.Region(start, 3 * HUGE, pyuffd.FileSource(path, direct=True), mode="missing+wp")
    with pyuffd.serve(pyuffd.Userfaultfd(int(MOVE)), [region]) as target:
        target.fill()
        assert target.wait(20, progress=False)
        pyuffd._workload.native_touch(start + PAGE, 2 * PAGE, PAGE)  # writes
        assert target.written() == [(start + PAGE, 2 * PAGE)]
        assert target.stats().moves == 0
        target.close()


@pytest.mark.requires_full_userfaultfd
@needs_move
def test_each_region_is_moved_into_or_not(path: Path, data: bytes) -> None:
    """What cannot be moved into keeps no other region from it; locked memory cannot."""
    mappings = [pyuffd.Mapping(4 * HUGE) for _ in range(3)] + [pyuffd.Mapping(3 * HUGE, "memfd", True)]
    lock(mappings[0])
    source = pyuffd.FileSource(path, direct=True)
    starts = [-(-mapping.address // HUGE) * HUGE for mapping in mappings[:3]] + [mappings[3].address]
    with pyuffd.serve(
        pyuffd.Userfaultfd(int(MOVE)), [pyuffd.Region(start, 3 * HUGE, source) for start in starts]
    ) as target:
        target.fill()
        assert target.wait(20, progress=False)
        stats = target.stats()
    # A page that its device holds a moment too long is copied.
    assert stats.moved_bytes == stats.moves * HUGE
    assert stats.moved_bytes in ((5 * HUGE, 6 * HUGE) if _huge_pages_admitted() else (0,))
    for mapping, start in zip(mappings, starts, strict=True):
        assert mapping.array[start - mapping.address :].tobytes()[: 3 * HUGE] == data[: 3 * HUGE]


def _huge_pages_admitted() -> bool:
    return "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()


@pytest.mark.requires_full_userfaultfd
@needs_move
def test_page_tables_of_one_huge_page_cost_no_other(tmp_path: Path, path: Path) -> None:
    """Where memory was used before, its page tables stay, and huge pages are moved in by single ones."""
    assert path
    if not _huge_pages_admitted():
        pytest.skip("transparent huge pages are off (/sys/kernel/mm/transparent_hugepage/enabled)")
    huge_pages = 24
    sparse = tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, huge_pages * HUGE)
    mapping = pyuffd.Mapping((huge_pages + 1) * HUGE)
    start = -(-mapping.address // HUGE) * HUGE
    pyuffd._workload.native_touch(start, PAGE, PAGE)
    pyuffd._workload.release_pages(start, PAGE)
    region = pyuffd.Region(start, huge_pages * HUGE, pyuffd.FileSource(sparse, direct=True))
    with pyuffd.serve(pyuffd.Userfaultfd(int(MOVE)), [region]) as target:
        target.fill()
        assert target.wait(20, progress=False)
    assert huge_bytes(start) >= (huge_pages - 2) * HUGE


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize(
    ("features", "source", "kind", "words"),
    [
        (0, "direct", "anonymous", "without Feature.MOVE"),
        (int(MOVE), "mapped", "anonymous", "whose bytes are at hand"),
        (int(MOVE), "direct", "memfd", "not private anonymous memory"),
        (int(MOVE), "locked", "anonymous", "not locked"),
        (int(MOVE), "protected", "anonymous", "does not have mode='missing'"),
        (int(MOVE), "kept", "anonymous", "on_remove='keep'"),
    ],
)
@needs_move
def test_moves_that_cannot_be(path: Path, features: int, source: str, kind: Any, words: str) -> None:
    mapping, uffd = pyuffd.Mapping(HUGE, kind), pyuffd.Userfaultfd(features)
    options: dict[str, Any] = {"protected": {"mode": "missing+wp"}, "kept": {"on_remove": "keep"}}.get(source, {})
    region = pyuffd.Region(mapping.address, HUGE, pyuffd.FileSource(path, direct=source != "mapped"), **options)
    if source == "locked":
        lock(mapping)
    with pytest.raises(ValueError, match=words):
        pyuffd.serve(uffd, [region], install="move")
    # Nothing is registered any more, and the userfaultfd is its user's again.
    with pyuffd.serve(uffd, [region], install="copy") as target:
        target.fill()


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
