"""Userfaultfd: every ioctl one to one, on real mappings; messages; ownership."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import run_child, tell
from support.memory import PAGE, Managed, random_bytes, readable
from support.state import no_descriptor_leaks, until

import pyuffd
from pyuffd import Feature, RegisterMode, _workload

pytestmark = pytest.mark.requires_full_userfaultfd

COPY, ZEROPAGE, WRITEPROTECT, CONTINUE = 1 << 3, 1 << 4, 1 << 6, 1 << 7


def address_of(data: bytes) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def needs(feature: Feature) -> None:
    if feature not in pyuffd.probe().features:
        pytest.skip(f"this kernel lacks {feature!r}")


@pytest.fixture
def uffd() -> Iterator[pyuffd.Userfaultfd]:
    with pyuffd.Userfaultfd() as uffd:
        yield uffd


@pytest.fixture
def memory(uffd: pyuffd.Userfaultfd) -> Managed:
    memory = Managed(pages=8)
    uffd.register(memory.start, memory.length)
    return memory


def refused(number: int) -> Any:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_open_and_close() -> None:
    with no_descriptor_leaks():
        uffd = pyuffd.Userfaultfd()
        assert not uffd.closed
        assert uffd.features == 0
        assert uffd.user_mode_only is False
        assert uffd.registered_by_sender is False
        assert not os.get_inheritable(uffd.fileno())
        assert not os.get_blocking(uffd.fileno())
        assert repr(uffd) == f"<pyuffd.Userfaultfd fd={uffd.fileno()} features=none>"
        uffd.close()
        uffd.close()
        assert repr(uffd) == "<pyuffd.Userfaultfd closed>"
        with pyuffd.Userfaultfd(user_mode_only=True) as other:
            assert other.user_mode_only
        assert repr(other) == "<pyuffd.Userfaultfd closed>"
        with pyuffd.Userfaultfd(user_mode_only=None) as best:
            assert best.user_mode_only is False  # full is permitted here


def test_features() -> None:
    with pyuffd.Userfaultfd(Feature.THREAD_ID | Feature.EVENT_UNMAP) as uffd:
        assert uffd.features == Feature.THREAD_ID | Feature.EVENT_UNMAP
        assert "EVENT_UNMAP, THREAD_ID" in repr(uffd)
    with no_descriptor_leaks(), pytest.raises(pyuffd.UnsupportedError, match="lacks the feature unknown bits"):
        pyuffd.Userfaultfd(1 << 50)


CALLS: list[Callable[[pyuffd.Userfaultfd], object]] = [
    lambda uffd: uffd.fileno(),
    lambda uffd: uffd.features,
    lambda uffd: uffd.user_mode_only,
    lambda uffd: uffd.waiting(),
    lambda uffd: uffd.read(timeout=0),
    lambda uffd: uffd.register(0, PAGE),
    lambda uffd: uffd.unregister(0, PAGE),
    lambda uffd: uffd.wake(0, PAGE),
    lambda uffd: uffd.copy(0, 0, PAGE),
    lambda uffd: uffd.zeropage(0, PAGE),
    lambda uffd: uffd.writeprotect(0, PAGE, True),
    lambda uffd: uffd.continue_(0, PAGE),
    lambda uffd: uffd.poison(0, PAGE),
    lambda uffd: uffd.move(0, 0, PAGE),
]


@pytest.mark.parametrize("call", CALLS)
def test_use_after_close_and_after_it_was_taken(call: Callable[[pyuffd.Userfaultfd], object]) -> None:
    uffd = pyuffd.Userfaultfd()
    uffd.close()
    with pytest.raises(ValueError, match="closed"):
        call(uffd)
    taken = pyuffd.Userfaultfd()
    memory = Managed(pages=1)
    with pyuffd.serve(taken, [memory.region()]):
        assert taken.closed
        with pytest.raises(ValueError, match="belongs to a target"):
            call(taken)
        taken.close()  # does nothing: it is not ours any more
        memory.touch()


def test_adopt_takes_over() -> None:
    first = pyuffd.Userfaultfd(Feature.THREAD_ID)
    adopted = pyuffd.Userfaultfd.adopt(os.dup(first.fileno()))
    assert adopted.features == Feature.THREAD_ID
    assert adopted.registered_by_sender
    first.close()
    memory = Managed(pages=1)
    adopted.register(memory.start, memory.length)
    adopted.close()


def test_adopt_refuses_and_closes_what_is_none() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(ValueError, match="is not a userfaultfd"):
        pyuffd.Userfaultfd.adopt(read_end)
    with pytest.raises(OSError):
        os.fstat(read_end)
    os.close(write_end)
    with pytest.raises(ValueError, match="fd is -1; it must be between 0 and"):
        pyuffd.Userfaultfd.adopt(-1)


def test_register_answers_the_ioctls_of_the_range(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=4)
    ioctls = uffd.register(memory.start, memory.length)
    assert ioctls & COPY
    assert ioctls & ZEROPAGE
    assert not ioctls & WRITEPROTECT
    both = uffd.register(memory.start, memory.length, RegisterMode.MISSING | RegisterMode.WP)
    assert both & WRITEPROTECT


def test_register_errors(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=4)
    with refused(errno.EINVAL):
        uffd.register(memory.start + 1, PAGE)
    with refused(errno.EINVAL):
        uffd.register(memory.start, 0)
    with refused(errno.EINVAL):
        uffd.register(memory.start, PAGE, 0)
    with refused(errno.EINVAL):
        uffd.register(PAGE, PAGE)  # not mapped
    with pyuffd.Userfaultfd() as other:
        other.register(memory.start, PAGE)
        with refused(errno.EBUSY):
            uffd.register(memory.start, memory.length)
        with pytest.raises(OSError, match=f"UFFDIO_REGISTER of {memory.start:#x}-"):
            uffd.register(memory.start, memory.length)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_numbers_outside_64_bits(uffd: pyuffd.Userfaultfd, value: int) -> None:
    with pytest.raises(ValueError, match=r"start is .*; it must be between 0 and 2\*\*64 - 1"):
        uffd.register(value, PAGE)
    with pytest.raises(ValueError, match="length is"):
        uffd.wake(0, value)
    with pytest.raises(ValueError, match="destination is"):
        uffd.copy(value, 0, PAGE)
    with pytest.raises(ValueError, match="source is"):
        uffd.move(0, value, PAGE)
    with pytest.raises(TypeError):
        uffd.wake("0", PAGE)  # type: ignore[arg-type]


def test_copy(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    toucher = memory.toucher(2, 1)
    (fault,) = uffd.read(timeout=20)
    assert isinstance(fault, pyuffd.Fault)
    assert fault.address == memory.at(2)
    assert fault.flags == 0
    assert fault.thread == 0
    assert repr(fault) == f"Fault(address={memory.at(2):#x}, flags=0, thread=0)"
    assert uffd.copy(memory.at(2), address_of(memory.data) + 2 * PAGE, PAGE) == PAGE
    assert toucher.join().wrong_pages == 0
    with refused(errno.EEXIST):
        uffd.copy(memory.at(2), address_of(memory.data), PAGE)
    # A partial result is a result.
    assert uffd.copy(memory.start, address_of(memory.data), memory.length) == 2 * PAGE
    with refused(errno.EFAULT):
        uffd.copy(memory.at(5), PAGE, PAGE)
    with refused(errno.EINVAL):
        uffd.copy(memory.at(5) + 1, address_of(memory.data), PAGE)
    uffd.unregister(memory.start, memory.length)
    with refused(errno.ENOENT):
        uffd.copy(memory.at(5), address_of(memory.data), PAGE)


def test_write_faults_carry_their_flag_and_thread() -> None:
    memory = Managed(pages=2)
    with pyuffd.Userfaultfd(Feature.THREAD_ID) as uffd:
        uffd.register(memory.start, memory.length)
        toucher = memory.toucher(0, 1, write=True, verified=False)
        (fault,) = uffd.read()
        assert isinstance(fault, pyuffd.Fault)
        assert fault.flags == pyuffd.FaultFlag.WRITE
        assert Path(f"/proc/self/task/{fault.thread}").exists()
        uffd.zeropage(memory.start, PAGE)
        toucher.join()


def test_exact_addresses() -> None:
    needs(Feature.EXACT_ADDRESS)
    memory = Managed(pages=1)
    reader, writer = os.pipe()
    with pyuffd.Userfaultfd(Feature.EXACT_ADDRESS) as uffd:
        uffd.register(memory.start, memory.length)
        view = memory.mapping.array[1234:1235].data
        worker = threading.Thread(target=os.write, args=(writer, view))  # write(2) faults, without the GIL
        worker.start()
        (fault,) = uffd.read()
        assert isinstance(fault, pyuffd.Fault)
        assert fault.address == memory.start + 1234
        uffd.zeropage(memory.start, PAGE)
        worker.join()
    os.close(reader)
    os.close(writer)


def test_wake_false_lets_sleep_until_wake(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    toucher = memory.toucher(0, 1)
    until(lambda: uffd.waiting() == (1, 1))
    uffd.copy(memory.start, address_of(memory.data), PAGE, wake=False)
    assert uffd.waiting()[1] == 1
    assert toucher.running()
    uffd.wake(memory.start, PAGE)
    assert toucher.join().wrong_pages == 0


def test_zeropage(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    assert uffd.zeropage(memory.start, 3 * PAGE, wake=False) == 3 * PAGE
    assert uffd.zeropage(memory.at(3), 5 * PAGE) == 5 * PAGE
    assert memory.states() == ["zero"] * 8
    with refused(errno.EEXIST):
        uffd.zeropage(memory.start, PAGE)


def test_unregister_and_wake(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    toucher = memory.toucher(0, 1, verified=False)
    until(lambda: uffd.waiting()[1] == 1)
    uffd.unregister(memory.start, memory.length)
    uffd.wake(memory.start, memory.length)
    toucher.join()
    assert memory.states() == ["zero"] * 8


@pytest.mark.requires_poison
def test_poison(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    assert uffd.poison(memory.at(1), 2 * PAGE) == 2 * PAGE
    with refused(errno.EEXIST):
        uffd.poison(memory.at(1), PAGE)
    uffd.zeropage(memory.at(0), PAGE)
    uffd.zeropage(memory.at(3), 5 * PAGE)
    assert [readable(memory.at(page)) for page in range(4)] == [True, False, False, True]


def test_writeprotect() -> None:
    memory = Managed(pages=2)
    array = memory.mapping.array
    array[:] = 1
    with pyuffd.Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd:
        uffd.register(memory.start, memory.length, RegisterMode.WP)
        uffd.writeprotect(memory.start, PAGE, True)
        toucher = memory.toucher(0, 1, write=True, verified=False)
        (fault,) = uffd.read(timeout=20)
        assert isinstance(fault, pyuffd.Fault)
        assert fault.flags == pyuffd.FaultFlag.WRITE | pyuffd.FaultFlag.WP
        uffd.writeprotect(memory.start, PAGE, False)
        toucher.join()
        with refused(errno.EINVAL):
            uffd.writeprotect(memory.start, PAGE, True, wake=False)
        uffd.writeprotect(memory.start, PAGE, False, wake=False)
        with refused(errno.ENOENT):
            uffd.writeprotect(Managed(pages=1).start, PAGE, True)


def test_copy_write_protected() -> None:
    memory = Managed(pages=1)
    with pyuffd.Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd:
        uffd.register(memory.start, memory.length, RegisterMode.MISSING | RegisterMode.WP)
        uffd.copy(memory.start, address_of(memory.data), PAGE, write_protect=True)
        memory.touch()
        toucher = memory.toucher(write=True, verified=False)
        (fault,) = uffd.read(timeout=20)
        assert isinstance(fault, pyuffd.Fault)
        assert fault.flags & pyuffd.FaultFlag.WP
        uffd.writeprotect(memory.start, PAGE, False)
        toucher.join()


def test_continue_of_a_minor_fault() -> None:
    """Two mappings of one memfd: what is written through one is continued in the other."""
    needs(Feature.MINOR_SHMEM)
    import mmap

    data = random_bytes(2 * PAGE)
    fd = os.memfd_create("pyuffd-test")
    try:
        os.ftruncate(fd, 2 * PAGE)
        with mmap.mmap(fd, 2 * PAGE) as writer, mmap.mmap(fd, 2 * PAGE) as reader:
            writer[:PAGE] = data[:PAGE]
            start = int(np.frombuffer(reader, np.uint8).ctypes.data)
            with pyuffd.Userfaultfd(Feature.MINOR_SHMEM) as uffd:
                assert uffd.register(start, 2 * PAGE, RegisterMode.MINOR) & CONTINUE
                sums = _workload.checksums_of(data, PAGE)
                toucher = _workload.Toucher([(start, PAGE)], checksums=sums[:1], timeline_bins=1)
                toucher.start()
                (fault,) = uffd.read(timeout=20)
                assert isinstance(fault, pyuffd.Fault)
                assert fault.flags == pyuffd.FaultFlag.MINOR
                assert uffd.continue_(start, PAGE) == PAGE
                assert toucher.join().wrong_pages == 0
                with refused(errno.EEXIST):
                    uffd.continue_(start, PAGE, wake=False)
                with refused(errno.EFAULT):
                    uffd.continue_(start + PAGE, PAGE)  # nothing in the page cache
    finally:
        os.close(fd)


def test_move() -> None:
    needs(Feature.MOVE)
    memory, source = Managed(pages=4), pyuffd.Mapping(4 * PAGE)
    source.array[:] = np.frombuffer(memory.data, np.uint8)
    with pyuffd.Userfaultfd() as uffd:
        uffd.register(memory.start, memory.length)
        toucher = memory.toucher(0, 1)
        until(lambda: uffd.waiting()[1] == 1)
        assert uffd.move(memory.start, source.address, 2 * PAGE) == 2 * PAGE
        assert toucher.join().wrong_pages == 0
        assert memory.state(1) == "right"
        assert not source.array[: 2 * PAGE].any()  # reads as zeros: a hole until now
        with refused(errno.EEXIST):
            uffd.move(memory.start, source.address + 2 * PAGE, PAGE)
        holes = pyuffd.Mapping(PAGE)
        with refused(errno.ENOENT):
            uffd.move(memory.at(2), holes.address, PAGE)
        assert uffd.move(memory.at(2), holes.address, PAGE, allow_holes=True, wake=False) == PAGE


def test_read_waits_with_and_without_a_timeout(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    assert uffd.read(timeout=0) == []
    began = time.monotonic()
    assert uffd.read(timeout=0.1) == []
    assert time.monotonic() - began >= 0.1
    for timeout in (None, 20.0, float("inf"), 1e30):
        got: list[Any] = []
        reader = threading.Thread(target=lambda t=timeout, into=got: into.extend(uffd.read(timeout=t)))
        reader.start()
        toucher = memory.toucher(0, 1, verified=False)
        reader.join()
        assert len(got) == 1, timeout
        uffd.zeropage(memory.start, PAGE)
        toucher.join()
        _workload.release_pages(memory.start, PAGE)


def test_read_takes_as_many_as_it_is_asked_for(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    toucher = memory.toucher(threads=8, verified=False)
    until(lambda: uffd.waiting() == (8, 8))
    first = uffd.read(3)
    assert len(first) == 3
    assert uffd.waiting() == (5, 8)
    rest = uffd.read()
    assert len(rest) == 5
    faults = [message.address for message in first + rest if isinstance(message, pyuffd.Fault)]
    assert sorted(faults) == [memory.at(page) for page in range(8)]
    uffd.zeropage(memory.start, memory.length)
    toucher.join()


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "most is 0"), ((1, -1.0), "timeout"), ((1, float("nan")), "timeout")]
)
def test_read_arguments(uffd: pyuffd.Userfaultfd, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uffd.read(*arguments)


def inside_poll() -> bool:
    """Whether a thread of this process is inside poll or ppoll (x86-64, aarch64)."""
    tasks = Path("/proc/self/task").iterdir()
    return any((task / "syscall").read_text().split()[0] in ("7", "73", "271") for task in tasks)


def test_no_close_while_another_thread_is_inside_a_call(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    """It would keep the userfaultfd from being released."""
    reader = threading.Thread(target=uffd.read)
    reader.start()
    until(inside_poll, "a thread inside poll")
    for call in (uffd.close, lambda: pyuffd.serve(uffd, [memory.region()])):
        with pytest.raises(RuntimeError, match="another thread is inside a call"):
            call()
    assert not uffd.closed
    toucher = memory.toucher(0, 1, verified=False)
    reader.join()
    uffd.zeropage(memory.start, PAGE)
    toucher.join()
    uffd.close()


def read_is_interrupted_child() -> None:
    uffd = pyuffd.Userfaultfd()

    def interrupt() -> None:
        calls = ("7", "73", "271")  # poll and ppoll, of x86-64 and of aarch64
        tasks = Path("/proc/self/task")
        until(lambda: any((task / "syscall").read_text().split()[0] in calls for task in tasks.iterdir()))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        uffd.read()
    except KeyboardInterrupt:
        tell("interrupted")
    thread.join()
    uffd.close()


def test_read_is_interrupted() -> None:
    assert run_child(read_is_interrupted_child) == "interrupted"


def remove_events_child() -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENT_REMOVE)
    memory = Managed(pages=8)
    uffd.register(memory.start, memory.length)
    uffd.zeropage(memory.start, memory.length)

    def during(action: Any) -> Any:
        thread = threading.Thread(target=action)
        thread.start()
        (event,) = uffd.read(timeout=20)
        thread.join()
        return event

    event = during(lambda: libc.madvise(ctypes.c_void_p(memory.start), ctypes.c_size_t(PAGE), 4))
    assert isinstance(event, pyuffd.RemoveEvent)
    assert (event.start, event.end) == (memory.start, memory.at(1)), event
    assert repr(event) == f"RemoveEvent(start={memory.start:#x}, end={memory.at(1):#x})"
    uffd.close()
    tell("all")


def test_remove_events() -> None:
    """madvise, mremap and munmap sleep until their event is read."""
    assert run_child(remove_events_child) == "all"


def remap_and_unmap_events_child() -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    libc.mremap.restype = ctypes.c_void_p
    libc.mmap.restype = ctypes.c_void_p
    uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENT_REMAP | pyuffd.Feature.EVENT_UNMAP)
    p, n = ctypes.c_void_p, ctypes.c_size_t
    start = libc.mmap(p(0), n(4 * PAGE), 3, 0x22, -1, n(0))
    room = libc.mmap(p(0), n(4 * PAGE), 0, 0x22, -1, n(0))
    uffd.register(start, 4 * PAGE)

    def during(action: Any) -> Any:
        thread = threading.Thread(target=action)
        thread.start()
        event, *_ = uffd.read(timeout=20)
        while thread.is_alive():  # mremap unmaps its old place: a second event, perhaps of the same read
            uffd.read(timeout=0.01)
        return event

    event = during(lambda: libc.mremap(p(start), n(4 * PAGE), n(4 * PAGE), 3, p(room)))
    assert isinstance(event, pyuffd.RemapEvent), event
    assert (event.from_, event.to, event.length) == (start, room, 4 * PAGE)
    assert "RemapEvent(from_=" in repr(event)
    event = during(lambda: libc.munmap(p(room), n(4 * PAGE)))
    assert isinstance(event, pyuffd.UnmapEvent), event
    assert (event.start, event.end) == (room, room + 4 * PAGE)
    assert "UnmapEvent(start=" in repr(event)
    tell("all")


def test_remap_and_unmap_events() -> None:
    assert run_child(remap_and_unmap_events_child) == "all"


def a_fork_event_is_the_childs_userfaultfd_child() -> None:
    import ctypes

    uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENT_FORK)
    memory = Managed(pages=2)
    uffd.register(memory.start, memory.length)
    got = []
    reader = threading.Thread(target=lambda: got.extend(uffd.read()))
    reader.start()
    pid = ctypes.CDLL(None).fork()  # sleeps until the event is read; releases the GIL
    if pid == 0:
        memory.mapping.array[5]  # missing in the child too
        os._exit(7)
    reader.join()
    (child,) = got
    assert isinstance(child, pyuffd.Userfaultfd)
    assert child.features == pyuffd.Feature.EVENT_FORK
    (fault,) = child.read(timeout=20)
    assert isinstance(fault, pyuffd.Fault)
    assert fault.address == memory.start
    child.zeropage(memory.start, PAGE)
    tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@pytest.mark.requires_root
def test_a_fork_event_is_the_childs_userfaultfd() -> None:
    assert run_child(a_fork_event_is_the_childs_userfaultfd_child) == 7
