"""Faults that are resolved by the thread which touches: see UFFD_FEATURE_SIGBUS in ioctl_userfaultfd(2)."""

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulting import PAGE, Managed, random_bytes, run_child, until

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


SHRUNK = """
path = sys.argv[1]
memory = Managed(pages=10)
with open(path, "wb") as file:
    file.write(memory.data)
region = memory.region(source=pyuffd.FileSource(path))
target = pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS), [region], inline=True, fault_around=1)
os.truncate(path, 5 * PAGE)
memory.touch(0, 5)
"""


@pytest.mark.requires_full_userfaultfd
def test_a_page_that_cannot_be_supplied_is_sigbus(tmp_path: Path) -> None:
    run_child(SHRUNK + "memory.mapping.array[7 * PAGE]", tmp_path / "file", expected=-signal.SIGBUS)
    told = run_child(
        SHRUNK
        + """
try:
    pyuffd.touch(memory.mapping.array)
except OSError as error:
    tell(error.errno)
target.wait(20, progress=False)
tell(target.close().poisoned)
""",
        tmp_path / "file",
    )
    assert told[0] == errno.EFAULT
    assert sum(length for _, length in told[1]) == 5 * PAGE


TRUNCATED = """
import mmap
path = sys.argv[1]
with open(path, "w+b") as file:
    file.write(b"x" * 2 * PAGE)
    file.flush()
    other = mmap.mmap(file.fileno(), 2 * PAGE)
    file.truncate(PAGE)
def inline():
    memory = Managed(pages=10)
    target = pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS), [memory.region()], inline=True)
    memory.touch(0, 2)
    return memory, target
"""


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("handler", ["none", "faulthandler", "ignored"])
def test_a_sigbus_that_is_not_ours_is_passed_on(tmp_path: Path, ended: bool, handler: str) -> None:
    code = {
        "none": "faulthandler.disable()\n",
        "faulthandler": "",
        "ignored": "faulthandler.disable()\nsignal.signal(signal.SIGBUS, signal.SIG_IGN)\n",
    }[handler]
    code += TRUNCATED + "memory, target = inline()\n"
    if ended:
        code += "target.close('fill')\n"
    run_child(code + "other[PAGE]", tmp_path / "file", expected=-signal.SIGBUS)


@pytest.mark.requires_full_userfaultfd
def test_a_sigbus_that_was_sent_is_passed_on() -> None:
    run_child(
        """
heard = []
signal.signal(signal.SIGBUS, lambda *_: heard.append(1))
memory = Managed(pages=10)
target = pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS), [memory.region()], inline=True)
os.kill(os.getpid(), signal.SIGBUS)
assert heard == [1]
"""
    )


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize(
    "taker", ["faulthandler.disable(); faulthandler.enable()", "signal.signal(signal.SIGBUS, print)"]
)
def test_who_takes_sigbus_over_is_told(taker: str, tmp_path: Path) -> None:
    code = (
        "faulthandler.disable()\n"
        + TRUNCATED
        + f"""
memory, target = inline()
{taker}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    target.stats()
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "taken SIGBUS over" in str(caught[0].message)
memory.touch(order="random")
target.wait(20, progress=False)
"""
    )
    run_child(code, tmp_path / "file")
    if "faulthandler" in taker:
        run_child(code + "other[PAGE]", tmp_path / "file", expected=-signal.SIGBUS)


@pytest.mark.requires_full_userfaultfd
def test_fork_children_are_left_alone(tmp_path: Path) -> None:
    run_child(
        TRUNCATED
        + """
memory, target = inline()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    child = os.fork()
if child == 0:
    other[PAGE]
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, status
memory.touch()
""",
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
        (SIGBUS, {"inline": True, "placement": "adopt"}, "placement 'adopt' is not for it"),
        (SIGBUS | pyuffd.Feature.EVENT_REMOVE, {"inline": True}, "without event features"),
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
    with pytest.raises(ValueError, match="mode='missing' alone"):
        pyuffd.serve(uffd, [region], inline=True)
    uffd.close()
