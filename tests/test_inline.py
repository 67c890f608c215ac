"""Faults that are resolved by the thread which touches: see UFFD_FEATURE_SIGBUS in ioctl_userfaultfd(2)."""

import errno
import faulthandler
import mmap
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import run_child, tell
from support.memory import PAGE, Managed, random_bytes
from support.state import until

import pyuffd

SIGBUS = pyuffd.Feature.SIGBUS


def serve(memory: Managed, **options: Any) -> pyuffd.Target:
    uffd = pyuffd.Userfaultfd(SIGBUS, user_mode_only=None)
    return pyuffd.serve(uffd, [memory.region()], inline=True, **options)


@pytest.mark.parametrize("fault_around", [1, 7, "auto"])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("order", ["sequential", "random"])
def test_threads_resolve_their_own_faults(fault_around: Any, threads: int, order: str) -> None:
    memory = Managed(pages=500)
    with serve(memory, fault_around=fault_around) as target:
        memory.touch(threads=threads, order=order, partition="all")
        assert target.wait(20, progress=False)
        stats, report = target.stats(), target.close()
    assert (stats.pages, stats.reads, stats.placement) == (500, 0, "inline")
    assert stats.faults > 0
    assert (report.ending, report.verified, report.missing_pages) == ("unregister", True, 0)
    assert "inline" in report.reason


def test_python_may_hold_the_gil() -> None:
    data = np.frombuffer(random_bytes(300 * PAGE), np.float32)
    source = pyuffd.MemorySource(data)
    for use in (
        lambda array: np.array_equal(array, data, equal_nan=True),
        lambda array: bytes(memoryview(array)) == data.tobytes(),
        lambda array: array.copy().tobytes() == data.tobytes(),
        lambda array: array.view(np.uint8)[::PAGE].sum() == data.view(np.uint8)[::PAGE].sum(),
    ):
        assert use(pyuffd.lazy_array(source, np.float32, data.shape, inline=True))


def test_fillers_and_touchers_meet() -> None:
    memory = Managed(pages=3000)
    with serve(memory, fillers=2) as target:
        target.fill()
        memory.touch(threads=4, order="random", partition="all")
        assert target.wait(20, progress=False)
        assert target.stats().pages == 3000


@pytest.mark.parametrize("missing", ["fill", "zero", "poison"])
def test_closes_with_pages_missing(missing: Any) -> None:
    memory = Managed(pages=20)
    target = serve(memory, fault_around=1)
    memory.touch(0, 5)
    with pytest.raises(pyuffd.MissingPagesError):
        target.close()
    report = target.close(missing)
    assert report.missing_pages == (15 if missing == "zero" else 0)
    assert sum(length for _, length in report.poisoned) == (15 * PAGE if missing == "poison" else 0)
    if missing != "poison":
        assert memory.states() == ["right"] * 5 + ["right" if missing == "fill" else "zero"] * 15


@pytest.mark.parametrize("missing", ["fill", "zero"])
def test_an_ending_while_threads_touch(missing: Any) -> None:
    for _ in range(20):
        memory = Managed(pages=200)
        target = serve(memory, fault_around=1)
        toucher = memory.toucher(threads=4, order="random", partition="all", verified=missing == "fill")
        target.close(missing)
        assert toucher.join().wrong_pages == 0


def test_what_the_target_drops_reads_as_zeros() -> None:
    memory = Managed(pages=10)
    with serve(memory, fault_around=1) as target:
        memory.touch(0, 5)
        pyuffd._workload.release_pages(memory.start, 2 * PAGE)
        assert [memory.state(page) for page in range(5)] == ["zero", "zero", "right", "right", "right"]
        assert target.stats().dropped == 2


def test_system_calls_want_touched_memory(tmp_path: Path) -> None:
    data = random_bytes(40 * PAGE)
    array = pyuffd.lazy_array(pyuffd.MemorySource(data), np.uint8, len(data), inline=True)
    with (tmp_path / "file").open("wb", buffering=0) as file:
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
            file.write(array.data)
        pyuffd.touch(array, 10, 3 * PAGE)
        assert file.write(array[10 : 10 + 3 * PAGE].data) == 3 * PAGE
        pyuffd.touch(array)
        assert file.write(array.data) == len(data)
    assert (tmp_path / "file").read_bytes() == data[10 : 10 + 3 * PAGE] + data


def test_touch_leaves_other_memory_alone() -> None:
    pyuffd.touch(b"plain")
    pyuffd.touch(np.arange(10_000))
    pyuffd.touch(np.empty(0))
    memory = Managed(pages=10)
    with memory.serve(fault_around=1) as target:
        pyuffd.touch(memory.mapping.array, 2 * PAGE, 3 * PAGE)
        until(lambda: target.missing_pages == 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((b"abc", 4), "0 bytes from byte 4"), ((b"abc", 0, 9), "9 bytes from byte 0"), ((b"abc", -1), "offset is -1")],
)
def test_touches_outside_a_buffer(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pyuffd.touch(*arguments)
    with pytest.raises(ValueError, match="contiguous"):
        pyuffd.touch(np.arange(10)[::2])


def serve_shrunk(path: str) -> tuple[Managed, pyuffd.Target]:
    """Serve a file inline that lost its second half; the first half is there."""
    memory = Managed(pages=10)
    Path(path).write_bytes(memory.data)
    region = memory.region(source=pyuffd.FileSource(path))
    target = pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS), [region], inline=True, fault_around=1)
    os.truncate(path, 5 * PAGE)
    memory.touch(0, 5)
    return memory, target


def touch_what_is_gone(path: str) -> None:
    memory, _target = serve_shrunk(path)
    memory.mapping.array[7 * PAGE]


def ask_for_what_is_gone(path: str) -> None:
    memory, target = serve_shrunk(path)
    try:
        pyuffd.touch(memory.mapping.array)
    except OSError as error:
        tell(error.errno)
    target.wait(20, progress=False)
    tell(target.close().poisoned)


@pytest.mark.requires_full_userfaultfd
def test_a_page_that_cannot_be_supplied_is_sigbus(tmp_path: Path) -> None:
    run_child(touch_what_is_gone, tmp_path / "file", expected=-signal.SIGBUS)
    told = run_child(ask_for_what_is_gone, tmp_path / "file")
    assert told[0] == errno.EFAULT
    assert sum(length for _, length in told[1]) == 5 * PAGE


def truncated(path: str) -> mmap.mmap:
    """A mapping of our own whose second page gives SIGBUS."""
    with Path(path).open("w+b") as file:
        file.write(b"x" * 2 * PAGE)
        file.flush()
        mapping = mmap.mmap(file.fileno(), 2 * PAGE)
        file.truncate(PAGE)
    return mapping


def serve_inline() -> tuple[Managed, pyuffd.Target]:
    memory = Managed(pages=10)
    target = pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS), [memory.region()], inline=True)
    memory.touch(0, 2)
    return memory, target


def meet_another_sigbus(path: str, handler: str, ended: bool) -> None:
    if handler != "faulthandler":
        faulthandler.disable()
    if handler == "ignored":
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
    other = truncated(path)
    _memory, target = serve_inline()
    if ended:
        target.close("fill")
    other[PAGE]


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("handler", ["none", "faulthandler", "ignored"])
def test_a_sigbus_that_is_not_ours_is_passed_on(tmp_path: Path, ended: bool, handler: str) -> None:
    run_child(meet_another_sigbus, tmp_path / "file", handler, ended, expected=-signal.SIGBUS)


def send_a_sigbus() -> None:
    heard = []
    signal.signal(signal.SIGBUS, lambda *_: heard.append(1))
    _served = serve_inline()
    os.kill(os.getpid(), signal.SIGBUS)
    assert heard == [1]


@pytest.mark.requires_full_userfaultfd
def test_a_sigbus_that_was_sent_is_passed_on() -> None:
    run_child(send_a_sigbus)


def take_sigbus_over(path: str, by: str, then: str) -> None:
    faulthandler.disable()
    other = truncated(path)
    memory, target = serve_inline()
    if by == "faulthandler":
        faulthandler.enable()
    else:
        signal.signal(signal.SIGBUS, print)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target.stats()
    assert [w.category for w in caught] == [RuntimeWarning], caught
    assert "another handler of SIGBUS was installed" in str(caught[0].message)
    memory.touch(order="random")
    target.wait(20, progress=False)
    if then == "other":
        other[PAGE]


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize("by", ["faulthandler", "signal"])
def test_who_takes_sigbus_over_is_told(by: str, tmp_path: Path) -> None:
    run_child(take_sigbus_over, tmp_path / "file", by, "nothing")
    if by == "faulthandler":
        run_child(take_sigbus_over, tmp_path / "file", by, "other", expected=-signal.SIGBUS)


def fork_beside_inline(path: str) -> None:
    other = truncated(path)
    memory, _target = serve_inline()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        other[PAGE]
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGBUS
    memory.touch()


@pytest.mark.requires_full_userfaultfd
def test_fork_children_are_left_alone(tmp_path: Path) -> None:
    run_child(
        fork_beside_inline,
        tmp_path / "file",
    )


def test_lazy_arrays_come_and_go() -> None:
    data = random_bytes(20 * PAGE)
    source = pyuffd.MemorySource(data)

    def work() -> None:
        for _ in range(50):
            array = pyuffd.lazy_array(source, np.uint8, len(data), inline=True)
            assert array[5 * PAGE] == data[5 * PAGE]

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_array_that_was_touched_whole_ends_by_itself() -> None:
    data = random_bytes(20 * PAGE)
    array = pyuffd.lazy_array(pyuffd.MemorySource(data), np.uint8, len(data), inline=True)
    assert array.tobytes() == data
    until(lambda: pyuffd.target_of(array).ended)


@pytest.mark.parametrize(
    ("features", "options", "words"),
    [
        (0, {"inline": True}, "open the userfaultfd with Feature.SIGBUS"),
        (SIGBUS, {}, "serve it with inline=True"),
        (SIGBUS, {"inline": True, "ending": "early-close"}, "ending is 'early-close'"),
        (SIGBUS, {"inline": True, "ending": "keep-open"}, "ending is 'keep-open'"),
        (SIGBUS, {"inline": True, "placement": "adopt"}, "which placement 'adopt' needs"),
        (SIGBUS | pyuffd.Feature.EVENT_REMOVE, {"inline": True}, "does not permit event features"),
    ],
)
def test_what_inline_is_not_for(features: int, options: dict[str, Any], words: str) -> None:
    memory, uffd = Managed(pages=2), pyuffd.Userfaultfd(features, user_mode_only=None)
    with pytest.raises(ValueError, match=words):
        pyuffd.serve(uffd, [memory.region()], **options)
    uffd.close()


def test_inline_is_for_missing_pages() -> None:
    memory, uffd = Managed(pages=2, kind="memfd"), pyuffd.Userfaultfd(SIGBUS, user_mode_only=None)
    region = pyuffd.Region(memory.start, memory.length, memory.source, mode="missing+minor")
    with pytest.raises(ValueError, match="mode='missing' only"):
        pyuffd.serve(uffd, [region], inline=True)
    uffd.close()
