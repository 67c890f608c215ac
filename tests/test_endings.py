"""Letting go: each ending, each policy for missing pages, what the report says, and keep-open."""

import contextlib
import ctypes
import faulthandler
import gc
import mmap
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from support.child import Child, become_nobody, hear, run_child, tell
from support.memory import PAGE, Managed, random_bytes, readable
from support.slow_source import SlowSource
from support.state import is_in, sleepers, until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

ENDINGS: list[Literal["auto", "early-close", "unregister"]] = ["auto", "early-close", "unregister"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_complete_target(ending: Any) -> None:
    memory = Managed(pages=10)
    before = time.monotonic()
    with memory.serve(ending=ending) as target:
        memory.touch()
        assert target.wait(20, progress=False)
        report = target.close()
        after = time.monotonic()
        assert target.close("zero") is report  # the stored one
    assert report.missing_pages == 0
    assert report.regions == 1
    assert report.verified is True
    assert report.poisoned == ()
    assert report.seconds is not None
    assert report.began is not None
    assert 0 < report.seconds < 10
    assert before <= report.began <= after
    if ending == "auto":
        assert "release generation" in report.reason
    else:
        assert (report.ending, report.reason) == (ending, "asked for")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("missing", ["raise", "fill", "zero", "poison"])
@pytest.mark.requires_poison
def test_missing_pages(ending: Any, missing: Any) -> None:
    memory = Managed(pages=20)
    target = memory.serve(ending=ending, fault_around=1)
    memory.touch(0, 8)
    if missing == "raise":
        with pytest.raises(pyuffd.MissingPagesError, match="12 pages of 20 are missing"):
            target.close(missing)
        memory.touch(8, 2)
        assert not target.ended
        missing = "fill"
    report = target.close(missing)
    assert target.ended
    assert report.verified is True
    assert report.missing_pages == (12 if missing == "zero" else 0)
    assert [memory.state(page) for page in range(8)] == ["right"] * 8
    if missing == "poison":
        assert report.poisoned == ((memory.at(8), 12 * PAGE),)
        assert not any(readable(memory.at(page)) for page in range(8, 20))
        assert target.stats().poisoned == 12
    else:
        expected = {"fill": "right", "zero": "zero"}[missing]
        assert memory.states()[8:] == [expected] * 12


def touching_a_poisoned_page_is_sigbus_after_the_ending_too_child() -> None:
    memory = Managed(pages=4)
    target = memory.serve(fault_around=1)
    memory.touch(0, 1)
    report = target.close("poison")
    assert report.verified, report
    assert report.ending in ("early-close", "unregister")
    tell(memory.state(0))
    faulthandler.disable()
    memory.mapping.array[2 * PAGE]
    tell("survived")


@pytest.mark.requires_poison
def test_touching_a_poisoned_page_is_sigbus_after_the_ending_too() -> None:
    assert run_child(touching_a_poisoned_page_is_sigbus_after_the_ending_too_child, expected=-7) == "right"


def close_beside_waiting(missing: pyuffd.Missing, ending: pyuffd.Ending) -> None:
    slow = SlowSource()
    memory, source = slow.memory, slow.source
    uffd = pyuffd.Userfaultfd()
    fd = uffd.fileno()
    target = pyuffd.serve(uffd, [memory.region(source=source)], ending=ending, fault_around=1)
    toucher = memory.toucher(0, 8, threads=4, verified=False)
    until(lambda: sleepers(fd) == 4 and slow.waiting() == 1)  # the handler itself waits for its source

    def let_go() -> None:
        until(lambda: is_in("close"))
        if missing == "zero":
            slow.open_gate()

    thread = threading.Thread(target=let_go)
    thread.start()
    faulthandler.disable()
    report = target.close(missing)
    thread.join()
    toucher.join()
    tell([report.verified, report.missing_pages >= 2, set(memory.states()) <= {"zero", "right"}])


@pytest.mark.parametrize("ending", ["early-close", "unregister"])
@pytest.mark.parametrize("missing", ["zero", pytest.param("poison", marks=pytest.mark.requires_poison)])
def test_close_while_threads_wait(missing: str, ending: str) -> None:
    if missing == "zero":
        assert run_child(close_beside_waiting, missing, ending) == [True, True, True]
    else:
        run_child(close_beside_waiting, missing, ending, expected=-7)  # they get SIGBUS


def test_another_descriptor_keeps_it_alive_and_the_report_says_so() -> None:
    for ending, verified in (("early-close", False), ("unregister", True), ("auto", True)):
        memory = Managed(pages=3)
        uffd = pyuffd.Userfaultfd()
        twin = os.dup(uffd.fileno())
        try:
            with pyuffd.serve(uffd, [memory.region()], ending=ending) as target:  # type: ignore[arg-type]
                report = target.close("fill")
            assert report.verified is verified
            if ending == "auto":
                assert report.ending == "unregister"
                assert "another descriptor holds" in report.reason
        finally:
            os.close(twin)


def test_auto_chooses_the_early_close_where_it_is_safe() -> None:
    memory = Managed(pages=3)
    with memory.serve() as target:
        report = target.close("fill")
    found = pyuffd.probe()
    assert f"Linux {found.kernel}" in report.reason
    assert found.release_generation in report.reason
    assert report.ending == ("early-close" if found.release_generation == "retry" else "unregister")


def hand_over(fd: int, how: str) -> None:
    memory = Managed(pages=4)
    uffd = pyuffd.Userfaultfd(user_mode_only=None)
    holder = os.dup(uffd.fileno())
    if how == "held" and os.fork() == 0:
        sys.stdin.read()  # until the parent is gone
        os._exit(0)
    os.close(holder)
    with socket.socket(fileno=fd) as sock:
        region = (memory.start, memory.length, 0, PAGE)
        pyuffd.handoff.send(sock, uffd, [region], register=how != "unregistered")
    tell(memory.start)
    hear()
    tell(memory.states())


@contextlib.contextmanager
def handed_over(how: str) -> Iterator[tuple[Child, pyuffd.handoff.Handoff]]:
    ours, theirs = socket.socketpair()
    with ours, theirs, Child(hand_over, theirs.fileno(), how, sockets=[theirs]) as child:
        yield child, pyuffd.handoff.receive(ours, pyuffd.MemorySource(Managed(pages=4).data))


def test_auto_finds_a_third_process_that_holds_the_userfaultfd() -> None:
    with handed_over("held") as (_, got):
        report = pyuffd.serve(got.uffd, got.regions, pid=got.pid).close("fill")
    assert (report.ending, report.verified) == ("unregister", True)
    if pyuffd.probe().release_generation == "retry":
        assert "another descriptor holds" in report.reason


def test_the_report_counts_pages_that_were_never_registered() -> None:
    with handed_over("unregistered") as (child, got):
        report = pyuffd.serve(got.uffd, got.regions, pid=got.pid).close("fill")
        child.hear()
        child.tell("look")
        assert child.hear() == ["zero"] * 4
    assert (report.missing_pages, report.absent_pages, report.verified) == (0, 4, None)


def test_the_wrong_process_is_no_proof() -> None:
    with handed_over("alone") as (_, got):
        report = pyuffd.serve(got.uffd, got.regions, pid=os.getppid()).close("fill")
    assert (report.absent_pages, report.verified) == (0, None)


def test_a_userfaultfd_from_elsewhere_needs_the_pid() -> None:
    with handed_over("alone") as (_, got):
        with pytest.raises(ValueError, match=r"give the target's pid"):
            pyuffd.serve(got.uffd, got.regions)
        for pid in (0, -1, 1 << 22):
            with pytest.raises(ValueError, match=f"pid is {pid}"):
                pyuffd.serve(got.uffd, got.regions, pid=pid)
        assert pyuffd.serve(got.uffd, got.regions, pid=got.pid).close("fill").verified


def auto_unregisters_where_descriptors_may_not_be_compared_child(fd: int) -> None:
    with socket.socket(fileno=fd) as sock:
        become_nobody()
        got = pyuffd.handoff.receive(sock, pyuffd.MemorySource(random_bytes(10 * PAGE)))
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
        report = target.close("fill")
    tell([report.ending, report.reason, report.verified, report.missing_pages])


@pytest.mark.requires_root
def test_auto_unregisters_where_descriptors_may_not_be_compared() -> None:
    """A manager of another user: it may look neither at the target's descriptors nor at its smaps."""
    memory = Managed(pages=10)
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(auto_unregisters_where_descriptors_may_not_be_compared_child, theirs.fileno(), sockets=[theirs]) as child,
    ):
        pyuffd.handoff.send(ours, pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
        ending, reason, verified, missing_pages = child.hear()
        child.finish()
    assert (ending, verified, missing_pages) == ("unregister", None, 0)
    if pyuffd.probe().release_generation == "retry":
        assert "may not be compared" in reason
    assert memory.states() == ["right"] * 10


def test_nobody_looks_where_nobody_is_asked_to() -> None:
    memory = Managed(pages=3)
    with memory.serve(verify=False) as target:
        assert target.close("fill").verified is None


def test_keep_open_serves_on() -> None:
    memory = Managed(pages=10)
    target = memory.serve(ending="keep-open", fault_around=1)
    memory.touch(0, 2)
    report = target.close()
    assert (report.ending, report.seconds, report.began, report.verified) == ("keep-open", None, None, None)
    assert report.missing_pages == 8
    memory.touch(2, 2)
    until(lambda: target.missing_pages == 6)  # counted after the wake
    assert target.close("zero").missing_pages == 6
    assert not target.ended
    target.fill()
    assert target.wait(20, progress=False)  # nothing is missing, though it has not ended
    assert not target.ended
    uffd = target.stop()
    assert repr(target) == f"<pyuffd.Target {target.id} of this process, stopped, 0 of 10 pages missing>"
    uffd.close()
    assert memory.states() == ["right"] * 10


@pytest.mark.requires_poison
def test_keep_open_may_be_filled_or_poisoned() -> None:
    memory = Managed(pages=10)
    target = memory.serve(ending="keep-open", fault_around=1)
    memory.touch(0, 2)
    report = target.close("poison")
    assert (report.ending, report.missing_pages) == ("keep-open", 0)
    assert report.poisoned == ((memory.at(2), 8 * PAGE),)
    target.stop().close()


def test_stop_hands_the_userfaultfd_to_whoever_serves_next() -> None:
    memory = Managed(pages=30)
    first = memory.serve(ending="keep-open", fault_around=1)
    memory.touch(0, 5)
    uffd = first.stop()
    assert not uffd.closed
    assert uffd.registered_by_sender
    toucher = memory.toucher(20, 1)
    until(lambda: sleepers(uffd.fileno()) == 1)
    with pyuffd.serve(uffd, [memory.region()], ending="early-close", fault_around=1) as second:
        assert toucher.join().wrong_pages == 0
        report = second.close("fill")
    assert report.verified is True
    assert memory.states() == ["right"] * 30
    assert second.stats().found_present >= 5  # what the first installed


def test_use_after_stop() -> None:
    memory = Managed(pages=3)
    target = memory.serve(ending="keep-open")
    with target.stop():
        with pytest.raises(RuntimeError, match="not served any more"):
            target.stop()
        with pytest.raises(RuntimeError, match="stopped"):
            target.fill()
        with pytest.raises(RuntimeError, match="stopped"):
            target.close("fill")
        with pytest.raises(RuntimeError, match="stopped"):
            target.wait(1, progress=False)
        assert target.missing_pages == 3


def test_a_stop_meets_whoever_waits() -> None:
    memory = Managed(pages=3)
    target = memory.serve(ending="keep-open")
    errors: list[str] = []

    def meet() -> None:
        try:
            target.wait(20, progress=False)
        except RuntimeError as error:
            errors.append(str(error))

    waiter = threading.Thread(target=meet)
    waiter.start()
    until(lambda: is_in("wait", waiter))
    target.stop().close()
    waiter.join()
    assert len(errors) == 1
    assert "stopped" in errors[0]


def test_stop_is_for_keep_open() -> None:
    memory = Managed(pages=3)
    with memory.serve() as target, pytest.raises(RuntimeError, match="keep-open"):
        target.stop()


def test_leaving_the_block_of_a_closed_keep_open_target_does_nothing() -> None:
    memory = Managed(pages=10)
    with memory.serve(ending="keep-open", fault_around=1) as target:
        target.close()
    assert target.missing_pages == 10
    target.stop().close()


def test_leaving_the_block_fills_after_an_exception_too() -> None:
    memory = Managed(pages=10)
    with pytest.raises(ZeroDivisionError), memory.serve():
        _ = 1 / 0
    assert memory.states() == ["right"] * 10


def test_close_twice_and_use_after_close() -> None:
    memory = Managed(pages=4)
    with memory.serve() as target:
        report = target.close("fill")
        assert target.close() is report
        assert target.close("poison") is report
        target.fill()
        assert target.wait(0, progress=False)
        assert target.stats().pages == 4
        with pytest.raises(RuntimeError, match="keep-open"):
            target.stop()
        target.discard()


def test_discard_lets_go_whatever_is_missing() -> None:
    memory = Managed(pages=10)
    target = memory.serve()
    target.discard()
    assert target.ended
    report = target.close()
    assert (report.ending, report.missing_pages, report.verified) == ("early-close", 10, None)
    target.discard()
    assert memory.states() == ["zero"] * 10


def test_a_target_that_is_collected_unclosed_warns_and_fills() -> None:
    memory = Managed(pages=10)
    target = memory.serve()
    with pytest.warns(ResourceWarning, match=r"was never closed; its 10 missing pages are filled now"):
        del target
    assert memory.states() == ["right"] * 10


def a_target_in_a_cycle_warns_and_fills_too_child() -> None:
    class Node:
        pass

    memory = Managed(pages=10)

    def leave() -> None:
        node: Any = Node()
        node.itself, node.target = node, memory.serve()

    leave()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    tell([[str(warning.category.__name__) for warning in caught], memory.states().count("right")])


def test_a_target_in_a_cycle_warns_and_fills_too() -> None:
    assert run_child(a_target_in_a_cycle_warns_and_fills_too_child) == [["ResourceWarning"], 10]


def test_a_target_that_had_ended_is_collected_in_silence() -> None:
    memory = Managed(pages=3)
    target = memory.serve()
    memory.touch()
    assert target.wait(20, progress=False)
    del target


def test_a_manager_that_is_collected_unclosed_fills() -> None:
    memory = Managed(pages=10)
    manager = pyuffd.Manager()
    manager.add(pyuffd.Userfaultfd(), [memory.region()])
    with pytest.warns(ResourceWarning, match="10 missing pages"):
        del manager
    assert memory.states() == ["right"] * 10


def replace_mapping(start: int, length: int) -> None:
    """Unmap it, and map other memory there, which its owner may unmap later."""
    mmap_call = ctypes.CDLL(None, use_errno=True).mmap
    mmap_call.restype = ctypes.c_void_p
    mmap_call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    assert mmap_call(start, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == start


def test_memory_that_is_unmapped_while_it_is_served() -> None:
    memory = Managed(pages=50)
    with memory.serve() as target:
        memory.touch(0, 20)
        replace_mapping(memory.start, memory.length)
        report = target.close("fill")
    assert report.missing_pages == 0
    assert target.stats().enoent > 0


def interrupted_wait_serves_on_child() -> None:
    memory = Managed(pages=10)
    target = memory.serve(fault_around=1)

    def interrupt() -> None:
        until(lambda: is_in("wait"))
        memory.touch(0, 1)  # served meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        target.wait(progress=False)
    except KeyboardInterrupt:
        tell("interrupted")
    thread.join()
    assert not target.ended
    memory.touch(5, 1)  # served on
    target.close("fill")
    tell(memory.states().count("right"))


def test_interrupted_wait_serves_on() -> None:
    assert run_child(interrupted_wait_serves_on_child) == ["interrupted", 10]


def interrupted_close_fills_on_child() -> None:
    slow = SlowSource()
    memory, source = slow.memory, slow.source
    target = pyuffd.serve(pyuffd.Userfaultfd(), [memory.region(source=source)])

    def interrupt() -> None:
        until(lambda: slow.waiting() == 1 and is_in("close"))  # the filler waits for the source
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        target.close("fill")
    except KeyboardInterrupt:
        tell("interrupted")
    thread.join()
    assert not target.ended
    slow.open_gate()
    report = target.close("fill")
    tell([report.missing_pages, memory.mapping.array.tobytes() == slow.data()])


def test_interrupted_close_fills_on() -> None:
    assert run_child(interrupted_close_fills_on_child) == ["interrupted", [0, True]]


def a_process_that_died_is_gone_child(fd: int) -> None:
    memory = Managed(pages=64)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
    hear()


@pytest.mark.parametrize("missing", ["fill", "poison", "zero"])
@pytest.mark.requires_poison
def test_a_process_that_died_is_gone(missing: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Child(a_process_that_died_is_gone_child, theirs.fileno(), sockets=[theirs]) as child:
        twin = Managed(pages=64)
        got = pyuffd.handoff.receive(ours, twin.source)
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
            child.signal(9)
            child.finish(-9)
            report = target.close(missing)
        assert target.ended
        assert report.missing_pages == 64
        assert report.seconds is not None
        if missing != "zero":
            assert "gone" in report.reason
            assert report.verified is None


def die(fd: int) -> None:
    memory = Managed(pages=64)
    with socket.socket(fileno=fd) as sock:
        uffd = pyuffd.Userfaultfd(user_mode_only=None)
        pyuffd.handoff.send(sock, uffd, [(memory.start, memory.length, 0, PAGE)])
    tell("handed over")
    how = hear()
    memory.touch(3, 1)
    if how == "exit":
        os._exit(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os.execv("/bin/cat", ["cat"])


@pytest.mark.parametrize("ending", ["auto", "keep-open"])
@pytest.mark.parametrize("how", ["exit", "kill", "exec"])
def test_a_target_that_dies_ends_by_itself(how: str, ending: Any) -> None:
    """Nobody fills, so no ioctl tells; another target of the same handler is served on."""
    other = Managed(pages=8)
    data = Managed(pages=64).data
    ours, theirs = socket.socketpair()
    with pyuffd.Manager(handlers=1) as manager, ours, theirs, Child(die, theirs.fileno(), sockets=[theirs]) as child:
        got = pyuffd.handoff.receive(ours, pyuffd.MemorySource(data))
        kept = manager.add(pyuffd.Userfaultfd(user_mode_only=None), [other.region()])
        target = manager.add(got.uffd, got.regions, pid=got.pid, ending=ending, fault_around=1)
        assert child.hear() == "handed over"
        child.tell(how)
        assert target.wait(10, progress=False)
        report = target.close()
        assert (report.ending, report.missing_pages) == ("early-close", 63)
        assert "gone" in report.reason
        other.touch()
        assert kept.close().missing_pages == 0
