"""Arrays whose pages arrive when they are touched."""

import faulthandler
import gc
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import run_child, tell
from support.memory import PAGE, random_bytes
from support.state import no_descriptor_leaks, open_descriptors, until

import pyuffd
from pyuffd import _exit


def touch_in_thread(array: Any) -> bytes:
    """The bytes of the array; numpy's copy holds the GIL, which no part of the fault path needs."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(array.tobytes()))
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("u1", (3 * PAGE,)),
        ("u1", 3 * PAGE + 5),
        ("<f8", (7, 1000)),
        (">i4", (5, 3, 1000)),
        ("c16", (1000,)),
        ("S7", (2000,)),
        ([("a", "u1"), ("b", "<f4")], (3000,)),
        ("?", (PAGE, 2)),
        ("M8[ns]", (2048,)),
    ],
    ids=str,
)
def test_dtypes_and_shapes(dtype: Any, shape: Any) -> None:
    expected_shape = (shape,) if isinstance(shape, int) else shape
    length = np.dtype(dtype).itemsize * int(np.prod(expected_shape))
    image = random_bytes(length)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), dtype, shape)
    assert array.shape == expected_shape
    assert array.dtype == np.dtype(dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert touch_in_thread(array) == image
    target = pyuffd.target_of(array)
    assert target.wait(20, progress=False)
    assert target.close().missing_pages == 0


@pytest.mark.parametrize(("shape", "length"), [((), 8), (3, 24), ((0,), 0), ((5, 0, 2), 0), (1, 8)])
def test_arrays_shorter_than_a_page_are_read_at_once(shape: Any, length: int) -> None:
    image = random_bytes(64)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), "<i8", shape)
    assert array.shape == ((shape,) if isinstance(shape, int) else shape)
    assert array.tobytes() == image[:length]
    with pytest.raises(ValueError, match="has no target"):
        pyuffd.target_of(array)


def test_the_tail_is_there_and_the_rest_comes_when_touched() -> None:
    image = random_bytes(4 * PAGE + 100)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image))
    target = pyuffd.target_of(array)
    assert target.pages == target.missing_pages == 5
    assert array[4 * PAGE :].tobytes() == image[4 * PAGE :]
    until(lambda: target.missing_pages == 4)  # marked after the wake
    array[0] = 99
    assert touch_in_thread(array)[1:] == image[1:]
    assert array[0] == 99


def test_a_file(tmp_path: Path) -> None:
    image = random_bytes(50 * PAGE + 17)
    path = tmp_path / "image"
    path.write_bytes(image)
    array = pyuffd.lazy_array(pyuffd.FileSource(path), "u1", (len(image),))
    path.unlink()  # it was opened once
    pyuffd.target_of(array).fill()
    assert pyuffd.target_of(array).wait(20, progress=False)
    assert array.tobytes() == image


def test_zeros() -> None:
    array = pyuffd.lazy_array(pyuffd.ZeroSource(), "f8", (1 << 14,))
    assert not array.any()
    array += 1
    assert array.sum() == 1 << 14


def test_target_of_views_and_of_others() -> None:
    array = pyuffd.lazy_array(pyuffd.ZeroSource(), "f8", (100, 100))
    target = pyuffd.target_of(array)
    for view in (array[3:7], array.T, array.ravel(), array.view("u1"), array[::2, 1], array.reshape(50, 200)):
        assert pyuffd.target_of(view) is target
    for other in (np.zeros(5), array.copy(), "text", None):
        with pytest.raises(ValueError, match="has no target"):
            pyuffd.target_of(other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("O", 10, "holds Python objects"),
        ([("a", "O")], 10, "holds Python objects"),
        ("u1", 2 * PAGE + 1, "its source has 8192" if PAGE == 4096 else "its source has"),
        ("f8", (PAGE, PAGE), "its source has"),
        ("u1", -1, "no dimension may be negative"),
    ],
)
def test_bad_input(dtype: Any, shape: Any, message: str) -> None:
    source = pyuffd.MemorySource(bytes(2 * PAGE))
    with no_descriptor_leaks(), pytest.raises(ValueError, match=message):
        pyuffd.lazy_array(source, dtype, shape)
    with pytest.raises(TypeError):
        pyuffd.lazy_array(source, "no such type", 1)


def test_collection_discards_in_silence() -> None:
    pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", PAGE)  # the manager of all lazy arrays is there now
    before = open_descriptors()
    for _ in range(5):
        array = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 100 * PAGE)
        array[7] = 1
        view = array[3:]
        del array
        assert view[4] == 1  # a view keeps it
        assert pyuffd.target_of(view).missing_pages > 0
        del view
    assert open_descriptors() == before


def test_a_lazy_array_in_a_cycle_is_discarded_in_silence() -> None:
    class Node:
        pass

    pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", PAGE)
    before = open_descriptors()
    for with_target in (False, True):
        node: Any = Node()
        node.itself = node
        node.array = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 100 * PAGE)
        if with_target:
            node.target = pyuffd.target_of(node.array)
        del node
        gc.collect()
        assert open_descriptors() == before


def test_a_target_outlives_its_array() -> None:
    array = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 10 * PAGE)
    target = pyuffd.target_of(array)
    del array
    assert target.ended
    assert target.close().missing_pages == 10


def test_many_arrays_at_once() -> None:
    images = [random_bytes(5 * PAGE, seed) for seed in range(30)]
    arrays = [pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image)) for image in images]
    assert [touch_in_thread(array) for array in arrays] == images


def kernel_accesses_to_missing_pages_child(path: str) -> None:
    image = random_bytes(20 * PAGE)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image))
    with Path(path).open("wb", buffering=0) as file:
        wrote = file.write(array[PAGE : 9 * PAGE].data)
    with Path(path).open("rb", buffering=0) as file:
        right = file.read() == image[PAGE : 9 * PAGE]
        file.seek(0)
        into = file.readinto(array[12 * PAGE : 14 * PAGE].data)
    tell([wrote, right, into, array[12 * PAGE : 14 * PAGE].tobytes() == image[PAGE : 3 * PAGE]])


@pytest.mark.requires_full_userfaultfd
def test_kernel_accesses_to_missing_pages(tmp_path: Path) -> None:
    """readinto, write(2) and a pipe reach into pages that nobody has touched."""
    assert run_child(kernel_accesses_to_missing_pages_child, tmp_path / "file") == [8 * PAGE, True, 2 * PAGE, True]


def a_fork_child_has_no_half_of_it_child() -> None:
    warnings.simplefilter("ignore")  # fork of a process with threads
    image = random_bytes(10 * PAGE)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image))
    array[0]

    def in_child(action: Callable[[], int]) -> int:
        pid = os.fork()
        if pid == 0:
            faulthandler.disable()
            os._exit(action())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    tell(in_child(lambda: int(array[0])))
    assert array.tobytes() == image  # the parent's goes on
    assert pyuffd.target_of(array).wait(20, progress=False)
    tell(in_child(lambda: 0 if array.tobytes() == image else 1))

    def new_one() -> int:
        lazy = pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image))
        return 0 if lazy.tobytes() == image else 1

    tell(in_child(new_one))
    half = [pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image))]

    def collected() -> int:
        half.clear()
        gc.collect()
        return 0

    tell(in_child(collected))
    tell(half[0].tobytes() == image)


def test_a_fork_child_has_no_half_of_it() -> None:
    """Until it is complete its memory is not inherited: a segmentation fault, not a zero."""
    assert run_child(a_fork_child_has_no_half_of_it_child) == [-11, 0, 0, 0, True]


def exit_with_a_lazy_array_child(path: str) -> None:
    Path(path).touch()
    os.truncate(path, 1 << 30)
    array = pyuffd.lazy_array(pyuffd.FileSource(path), "u1", 1 << 30)
    assert array[12345] == 0
    _exit.fill_all()
    tell(pyuffd.target_of(array).missing_pages > 1000)
    tell(int(array[-1]))  # served to the very end


def test_exit_with_a_lazy_array(tmp_path: Path) -> None:
    """Nobody can touch it after the exit, so it is not filled: that could take more memory than there is."""
    assert run_child(exit_with_a_lazy_array_child, tmp_path / "sparse") == [True, 0]


def memory_grows_only_with_what_is_touched_child() -> None:
    def rss() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    _first = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 1 << 20)
    before = rss()
    image = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 1 << 32)  # 2**20 pages
    image[:: 1 << 24].sum()
    tell(rss() - before)
    pyuffd.target_of(image).discard()


def test_memory_grows_only_with_what_is_touched() -> None:
    touched = 256 * 16 * PAGE  # at most a window each
    assert run_child(memory_grows_only_with_what_is_touched_child) < touched + (1 << 20) // 4 + (16 << 20)


def test_threads_touch_one_array() -> None:
    image = random_bytes(200 * PAGE)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), "u1", len(image))
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(array.tobytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [image] * 4
    until(lambda: pyuffd.target_of(array).ended)


def test_the_process_needs_no_more_descriptors_than_arrays() -> None:
    first = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", PAGE * 4)
    before = len(open_descriptors())
    arrays = [pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", PAGE * 4) for _ in range(10)]
    assert len(open_descriptors()) == before + 10
    del arrays, first


@pytest.mark.parametrize("dtype", ["S", "U", "S0", ("i4", (3,))])
def test_a_dtype_without_a_size_of_its_own(dtype: Any) -> None:
    with pytest.raises(ValueError, match="no size of its own"):
        pyuffd.lazy_array(pyuffd.ZeroSource(), dtype, 9000)


def test_integers_of_numpy() -> None:
    source = pyuffd.MemorySource(bytes(range(12)))
    assert pyuffd.lazy_array(source, "u1", np.int64(5)).tolist() == [0, 1, 2, 3, 4]
    assert pyuffd.lazy_array(source, "u1", (np.int64(3), np.uint8(4))).shape == (3, 4)
    with pytest.raises(ValueError, match="no dimension may be negative"):
        pyuffd.lazy_array(source, "u1", (-2, -3))


class InterruptedMakingError(Exception):
    pass


def an_array_whose_making_is_interrupted_leaves_nothing_child() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise InterruptedMakingError

    signal.signal(signal.SIGALRM, interrupt)
    source = pyuffd.MemorySource(random_bytes(64 * PAGE))

    def make() -> None:
        _array = pyuffd.lazy_array(source, "u1", 64 * PAGE)
        signal.setitimer(signal.ITIMER_REAL, 0)  # only the making is interrupted

    def disarm() -> tuple[float, float]:
        while True:
            try:
                return signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptedMakingError:
                pass

    make()
    began = time.monotonic()
    make()
    usual = time.monotonic() - began
    before = open_descriptors()
    interrupted = 0
    while interrupted < 200:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.random() * 1.2 * usual + 1e-6)
            make()
        except InterruptedMakingError:
            interrupted += 1
        finally:
            disarm()
    gc.collect()
    tell(sorted(open_descriptors() - before))


def test_an_array_whose_making_is_interrupted_leaves_nothing() -> None:
    """A signal handler raises at any place of it, as Ctrl-C does."""
    assert run_child(an_array_whose_making_is_interrupted_leaves_nothing_child) == []


@pytest.mark.skipif(
    Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2", reason="vm.overcommit_memory is 2"
)
def test_more_than_the_machine_has() -> None:
    """An array that loads when it is touched takes no memory before."""
    array = pyuffd.lazy_array(pyuffd.ZeroSource(), np.uint8, 1 << 40)
    array[1 << 39] = 7
    assert (array[0], array[1 << 39], array[-1]) == (0, 7, 0)
