"""One image for many targets, whose pages it has by CONTINUE."""

import gc
import mmap
import os
import signal
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import Child, hear, run_child, tell
from support.memory import PAGE, random_bytes
from support.state import until

import pyuffd
from pyuffd import _workload

pytestmark = pytest.mark.requires_full_userfaultfd

PAGES = 200
DATA = random_bytes(PAGES * PAGE, 7)


class Shared:
    """A mapping of an image in this process, served or not."""

    def __init__(self, image: pyuffd.SharedImage, *, shared: bool = False, data: bytes = DATA) -> None:
        self.image = image
        self.mapping = image.map(shared=shared)
        self.page = image.page_size
        self.sums = _workload.checksums_of(data.ljust(self.mapping.length, b"\0"), self.page)

    def serve(self, **options: Any) -> pyuffd.Target:
        region = pyuffd.Region(
            self.mapping.address, self.mapping.length, self.image, 0, self.page, mode="missing+minor"
        )
        return pyuffd.serve(pyuffd.Userfaultfd(), [region], **options)

    def touch(self, **options: Any) -> int:
        toucher = _workload.Toucher(
            [(self.mapping.address, self.mapping.length)], page_size=self.page, checksums=self.sums, **options
        )
        toucher.start()
        return toucher.join().wrong_pages


def test_pages_come_once_whoever_touches_them() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    assert (image.length, image.page_size, image.missing_pages) == (PAGES * PAGE, PAGE, PAGES)
    targets = [Shared(image, shared=shared) for shared in (False, True, False)]
    with ExitStack() as stack:
        served = [stack.enter_context(target.serve(fault_around=1)) for target in targets]
        assert [target.touch(order="random", threads=2) for target in targets] == [0, 0, 0]
        assert image.missing_pages == 0
        assert all(target.wait(20, progress=False) for target in served)
        assert [target.stats().copies for target in served] == [0, 0, 0]
        assert [target.close().verified for target in served] == [True] * 3
    assert [target.touch() for target in targets] == [0, 0, 0]


@pytest.mark.parametrize("filled_before", [True, False])
def test_a_fill_takes_pages_in_bulk(filled_before: bool) -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    if filled_before:
        image.fill()
        assert image.wait(20, progress=False)
    memory = Shared(image)
    with memory.serve() as target:
        target.fill()
        assert target.wait(20, progress=False)
        assert target.stats().continues < PAGES // 4
    assert image.missing_pages == 0


def test_an_image_fills_while_targets_touch_and_fill() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    targets = [Shared(image) for _ in range(4)]
    with ExitStack() as stack:
        served = [stack.enter_context(target.serve(fillers=2)) for target in targets]
        image.fill()
        for target in served:
            target.fill()
        assert [target.touch(order="random", threads=3) for target in targets] == [0] * 4
        assert image.wait(20, progress=False)
    assert [target.touch() for target in targets] == [0] * 4


def test_what_a_private_target_writes_stays_its_own() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    writer, reader = Shared(image), Shared(image)
    with writer.serve() as target:
        assert writer.touch(write=True) == 0
        assert target.wait(20, progress=False)
        writer.mapping.array[::PAGE] ^= 255
    with reader.serve():
        assert reader.touch() == 0
    assert writer.touch() == PAGES
    assert image.read(0, image.length) == DATA


def test_shared_targets_share_what_they_write() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    writer, reader = Shared(image, shared=True), Shared(image, shared=True)
    with writer.serve() as target, reader.serve():
        target.fill()
        assert target.wait(20, progress=False)
        writer.mapping.array[5 * PAGE] ^= 255
        assert reader.touch() == 1


def test_dropped_pages_have_the_images_bytes_again() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    memory = Shared(image)
    with memory.serve(ending="keep-open") as target:
        assert memory.touch() == 0
        _workload.release_pages(memory.mapping.address, memory.mapping.length)
        assert memory.touch() == 0
        target.stop().close()


def test_a_hole_that_somebody_else_filled_is_no_zero() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    unserved = image.map()
    assert not unserved.array.any()
    memory = Shared(image)
    with memory.serve(fault_around=1):
        assert memory.touch() == 0


@pytest.mark.parametrize("extra", [0, 1, 4095])
def test_the_rest_of_the_last_page_is_zeros(extra: int) -> None:
    data = DATA[: 3 * PAGE + extra]
    image = pyuffd.SharedImage(pyuffd.MemorySource(data))
    memory = Shared(image, data=data)
    with memory.serve():
        assert memory.touch() == 0
    assert image.length == (3 * PAGE + extra + PAGE - 1) // PAGE * PAGE


def test_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    image = pyuffd.SharedImage(pyuffd.FileSource(path))
    memory = Shared(image)
    with memory.serve() as target:
        os.truncate(path, 50 * PAGE)
        target.fill()
        assert target.wait(20, progress=False)
        report = target.close()
    assert sum(length for _, length in report.poisoned) == 150 * PAGE
    image.fill()
    with pytest.raises(RuntimeError, match="150 pages of the image are missing"):
        image.wait(20, progress=False)
    with pytest.raises(OSError, match="cannot supply"):
        image.read(60 * PAGE, 1)
    # Once its source can supply them again, another target has them.
    path.write_bytes(DATA)
    other = Shared(image)
    with other.serve():
        assert other.touch() == 0


def test_of_a_bigger_range_than_the_target_maps() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(DATA))
    mapping = image.map(20 * PAGE, 30 * PAGE)
    region = pyuffd.Region(mapping.address, mapping.length, image, 20 * PAGE, mode="missing+minor")
    with pyuffd.serve(pyuffd.Userfaultfd(), [region]):
        pass
    assert mapping.array.tobytes() == DATA[20 * PAGE : 50 * PAGE]
    assert image.missing_pages == PAGES - 30


@pytest.mark.requires_hugetlb
@pytest.mark.usefixtures("huge_pages")
def test_hugetlb() -> None:
    size = pyuffd.probe().hugetlb_page_size
    data = random_bytes(2 * size - 5, 3)
    image = pyuffd.SharedImage(pyuffd.MemorySource(data), kind="hugetlb")
    memories = [Shared(image, shared=True, data=data) for _ in range(2)]
    for memory in memories:
        with memory.serve() as target:
            assert memory.touch() == 0
            assert target.wait(20, progress=False)
            assert target.stats().copies == 0
    assert image.read(size - 1, 3) == data[size - 1 : size + 2]


def test_hugetlb_pages_that_lack() -> None:
    size = pyuffd.probe().hugetlb_page_size
    with pytest.raises(OSError, match=r"reserve \d+ pages with the sysctl vm.nr_hugepages"):
        pyuffd.SharedImage(pyuffd.CallableSource(lambda offset, length: b"", 100_000 * size), kind="hugetlb")


def memory_of(address: int) -> tuple[int, int]:
    """Pss and Anonymous of the mapping at this address, in KiB."""
    of_mapping = Path("/proc/self/smaps").read_text().partition(f"{address:x}-")[2].split()
    return int(of_mapping[of_mapping.index("Pss:") + 1]), int(of_mapping[of_mapping.index("Anonymous:") + 1])


def map_image(fd: int, length: int, write: int) -> None:
    """Map the image, hand the mapping over, read all of it, and write to so many pages."""
    sock = socket.socket(fileno=fd)
    _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    memory = mmap.mmap(fds[0], length, flags=mmap.MAP_PRIVATE)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    uffd = pyuffd.Userfaultfd()
    pyuffd.handoff.send(sock, uffd, [(address, length, 0, PAGE)], mode="missing+minor")
    tell(zlib.crc32(memory))
    for page in range(write):
        memory[page * PAGE] = 1
    hear()
    tell(memory_of(address))
    hear()


@contextmanager
def target_process(image: pyuffd.SharedImage, write: int) -> Iterator[tuple[Child, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, Child(map_image, theirs.fileno(), image.length, write, sockets=[theirs]) as child:
        theirs.close()
        socket.send_fds(ours, [b"m"], [image.fileno()])
        yield child, ours


def drop_pages(fd: int, length: int, events: bool, wrote: bool) -> None:
    """Map the image, hand the mapping over, drop three pages of it, and read them."""
    sock = socket.socket(fileno=fd)
    _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    memory = mmap.mmap(fds[0], length, mmap.MAP_PRIVATE)
    start = np.frombuffer(memory, "u1").ctypes.data
    if wrote:
        memory[5 * PAGE] = 7  # a page of its own, which nobody of the manager's installed
    uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENT_REMOVE if events else 0)
    pyuffd.handoff.send(sock, uffd, [(start, length, 0, PAGE)], mode="missing+minor")
    hear()
    memory.madvise(mmap.MADV_DONTNEED, 5 * PAGE, 3 * PAGE)
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    tell(memory[5 * PAGE : 8 * PAGE].hex())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # how a failing source is told
@pytest.mark.parametrize(("late", "fails"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("wrote", [False, True])
def test_a_page_that_is_dropped_before_it_came_is_the_images(
    late: bool, events: bool, wrote: bool, fails: bool
) -> None:
    """Also where the image has not read it yet; and where it cannot, its toucher gets SIGBUS."""

    def read(offset: int, length: int) -> bytes:
        if fails and offset <= 5 * PAGE < offset + length:
            raise ValueError("no such page")
        return DATA[offset : offset + length]

    image = pyuffd.SharedImage(pyuffd.CallableSource(read, len(DATA)) if late else pyuffd.MemorySource(DATA))
    ours, theirs = socket.socketpair()
    arguments = (theirs.fileno(), image.length, events, wrote)
    with ours, Child(drop_pages, *arguments, sockets=[theirs]) as child:
        theirs.close()
        socket.send_fds(ours, [b"m"], [image.fileno()])
        got = pyuffd.handoff.receive(ours, image, mode="missing+minor")
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid, fault_around=1) as target:
            child.tell("drop")
            if fails:
                child.finish(expected=-signal.SIGBUS)
            else:
                assert child.hear() == DATA[5 * PAGE : 8 * PAGE].hex()
                child.finish()
            target.close("zero")


@pytest.mark.parametrize("late", [False, True])
def test_eight_processes_have_one_copy(late: bool) -> None:

    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.extend(range(offset // PAGE, (offset + length) // PAGE))
        return DATA[offset : offset + length]

    source = pyuffd.CallableSource(read, len(DATA)) if late else pyuffd.MemorySource(DATA)
    image = pyuffd.SharedImage(source)
    with ExitStack() as stack, pyuffd.Manager(handlers=1) as manager:
        children = [stack.enter_context(target_process(image, write=10)) for _ in range(8)]
        targets = []
        for _, sock in children:
            got = pyuffd.handoff.receive(sock, image, mode="missing+minor")
            targets.append(manager.add(got.uffd, got.regions, pid=got.pid))
            targets[-1].fill()
        assert {child.hear() for child, _ in children} == {zlib.crc32(DATA)}
        for target in targets:
            assert target.wait(20, progress=False)
        for child, _ in children:
            child.tell("look")
        anonymous = [child.hear()[1] for child, _ in children]
        # What they wrote, and nothing else, is their own; the image is there once.
        assert set(anonymous) == {10 * PAGE // 1024}
        assert os.fstat(image.fileno()).st_blocks * 512 == len(DATA)
        for child, _ in children:
            child.tell("end")
            child.finish()
    assert sorted(asked) == (list(range(PAGES)) if late else [])


def test_late_sources_are_for_other_processes() -> None:
    image = pyuffd.SharedImage(pyuffd.CallableSource(lambda offset, length: bytes(length), 4 * PAGE))
    memory = Shared(image)
    with pytest.raises(ValueError, match="CallableSource"):
        memory.serve()
    image.fill()
    assert image.wait(20, progress=False)


def an_image_whose_source_hangs_can_be_waited_for_with_a_limit_child() -> None:
    gate = threading.Event()

    def read(offset: int, length: int) -> bytes:
        gate.wait()
        return bytes(length)

    image = pyuffd.SharedImage(pyuffd.CallableSource(read, 4 * PAGE))
    image.fill()
    assert image.wait(0.05, progress=False) is False
    gate.set()
    assert image.wait(20, progress=False)


def test_an_image_whose_source_hangs_can_be_waited_for_with_a_limit() -> None:
    run_child(an_image_whose_source_hangs_can_be_waited_for_with_a_limit_child)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pyuffd.SharedImage(pyuffd.MemorySource(b"")), ValueError, "source of an image is empty"),
        (lambda: pyuffd.SharedImage(pyuffd.ZeroSource()), ValueError, "give a source that has an end"),
        (lambda: pyuffd.SharedImage(_image()), ValueError, "SharedImage already"),
        (lambda: pyuffd.SharedImage(pyuffd.MemorySource(b"x"), kind="anonymous"), ValueError, "'memfd', 'hugetlb'"),  # type: ignore[arg-type]
        (lambda: _image().map(1), ValueError, "offset is 1"),
        (lambda: _image().map(0, 5 * PAGE), ValueError, "length is"),
        (lambda: _image().wait(float("nan")), ValueError, "not a number"),
        (lambda: _image().wait(0), RuntimeError, "nobody fills them"),
    ],
)
def test_bad_input(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def _image() -> pyuffd.SharedImage:
    return pyuffd.SharedImage(pyuffd.MemorySource(DATA[: 4 * PAGE]))


def test_its_regions_must_tell_of_every_fault() -> None:
    image = _image()
    mapping, uffd = image.map(), pyuffd.Userfaultfd()
    for mode in ("missing", "minor", "missing+wp"):
        region = pyuffd.Region(mapping.address, mapping.length, image, mode=mode)
        with pytest.raises(ValueError, match="give it mode='missing\\+minor'"):
            pyuffd.serve(uffd, [region])
    uffd.close()


def test_it_is_freed() -> None:
    def images() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum("pyuffd-image" in str(link.readlink()) for link in links)

    before = images()
    image = _image()
    memory = Shared(image)
    with memory.serve():
        pass
    image.fill()
    array = memory.mapping.array
    del image, memory
    gc.collect()
    until(lambda: images() == before, "the image's end")
    assert np.array_equal(array, np.frombuffer(DATA[: 4 * PAGE], np.uint8))


def test_the_descriptor_cannot_take_pages_away() -> None:
    image = pyuffd.SharedImage(pyuffd.MemorySource(random_bytes(4 * PAGE)))
    for length in (0, 8 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(image.fileno(), length)


def test_an_image_of_nothing_is_refused() -> None:
    with pytest.raises(TypeError):
        pyuffd.SharedImage(None)  # type: ignore[arg-type]
