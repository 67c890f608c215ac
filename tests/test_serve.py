"""Serving: every byte is right, whatever the order, the source and the threads."""

import errno
import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.child import run_child, tell
from support.memory import PAGE, Managed, random_bytes
from support.slow_source import SlowSource
from support.state import named_threads, open_descriptors, sleepers, until

import pyuffd
from pyuffd import _workload

pytestmark = pytest.mark.requires_full_userfaultfd


@pytest.mark.parametrize("order", ["sequential", "random", "stride"])
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_touches_in_any_order(order: str, write: bool) -> None:
    memory = Managed(pages=300)
    with memory.serve() as target:
        touches = memory.touch(threads=4, partition="all", order=order, stride=7, write=write)
        assert touches.touched == 4 * 300
        assert target.wait(20, progress=False)
    assert memory.states() == ["right"] * 300


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_kinds_of_memory(kind: Any, shared: bool) -> None:
    memory = Managed(pages=20, kind=kind, shared=shared)
    with memory.serve() as target:
        memory.touch()
        assert target.wait(20, progress=False)
        assert target.close().verified


@pytest.mark.requires_hugetlb
@pytest.mark.usefixtures("huge_pages")
def test_hugetlb_memory() -> None:
    memory = Managed(pages=3, kind="hugetlb")
    with memory.serve() as target:
        memory.touch(1, 1)
        target.fill()
        assert target.wait(20, progress=False)
        assert target.close().verified
    assert memory.states() == ["right"] * 3


@pytest.mark.parametrize("fault_around", [1, 2, 16, 64, "auto", 10**15])
def test_fault_around(fault_around: Any) -> None:
    memory = Managed(pages=64)
    with memory.serve(fault_around=fault_around) as target:
        memory.touch(40, 1)
        until(lambda: target.missing_pages < 64)
        window = 1 if fault_around == "auto" else fault_around
        installed = 64 - target.missing_pages
        # Windows are aligned to addresses, so the region's ends may cut one.
        assert installed == 1 if window == 1 else 1 <= installed <= min(window, 64)
        memory.touch()
    assert memory.states() == ["right"] * 64


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_fault_around_learns_from_walks(order: str) -> None:
    memory = Managed(pages=2048)
    with memory.serve() as target:
        memory.touch(order=order)
        faults = target.stats().faults
    assert faults < 100 if order == "sequential" else faults > 700
    assert memory.states() == ["right"] * 2048


@pytest.mark.parametrize("fillers", [1, 2, 4])
def test_fill_supplies_what_nobody_touches(fillers: int) -> None:
    memory = Managed(pages=1000)
    with memory.serve(fillers=fillers) as target:
        target.fill()
        target.fill()
        assert target.wait(20, progress=False)
        stats = target.stats()
    assert (stats.faults, stats.pages, stats.bytes) == (0, 1000, 1000 * PAGE)
    assert memory.states() == ["right"] * 1000


def test_fill_and_touches_meet() -> None:
    memory = Managed(pages=3000)
    with memory.serve(fillers=2) as target:
        toucher = memory.toucher(threads=4, order="random", partition="all")
        target.fill()
        assert toucher.join().wrong_pages == 0
        assert target.wait(20, progress=False)
        assert target.stats().pages == 3000


def test_what_is_written_stays() -> None:
    memory = Managed(pages=16)
    with memory.serve(fault_around=1) as target:
        memory.touch(3, 1, write=True)
        array = memory.mapping.array
        array[3 * PAGE : 4 * PAGE] = 7  # present: this thread touches no missing page
        target.close("fill")
        assert (array[3 * PAGE : 4 * PAGE] == 7).all()
    assert memory.state(4) == "right"


def test_sixteen_targets_on_two_handlers() -> None:
    with pyuffd.Manager(handlers=2, fillers=2) as manager:
        memories = [Managed(pages=50, seed=seed) for seed in range(16)]
        targets = [manager.add(pyuffd.Userfaultfd(), [memory.region()]) for memory in memories]
        touchers = [memory.toucher(order="random") for memory in memories[:8]]
        for target in targets[8:12]:
            target.fill()
        assert all(toucher.join().wrong_pages == 0 for toucher in touchers)
        for target in targets[:12]:
            assert target.wait(20, progress=False)
        assert not targets[12].ended
    assert all(target.ended for target in targets)  # leaving the block filled the others
    for memory in memories:
        assert memory.states() == ["right"] * 50


def test_a_manager_goes_on_with_new_targets_while_others_end() -> None:
    with pyuffd.Manager(handlers=1) as manager:
        for seed in range(20):
            memory = Managed(pages=5, seed=seed)
            target = manager.add(pyuffd.Userfaultfd(), [memory.region()])
            memory.touch()
            assert target.wait(20, progress=False)


def test_a_closed_manager_takes_no_target() -> None:
    manager = pyuffd.Manager()
    manager.close()
    manager.close()
    memory = Managed(pages=1)
    uffd = pyuffd.Userfaultfd()
    with pytest.raises(RuntimeError, match="closed"):
        manager.add(uffd, [memory.region()])
    assert not uffd.closed
    uffd.close()


def test_regions_apart_and_adjoining_in_any_sequence() -> None:
    memory = Managed(pages=40)
    regions = [memory.region(30, 10), memory.region(0, 5), memory.region(5, 3)]
    with pyuffd.serve(pyuffd.Userfaultfd(), iter(regions)) as target:
        assert target.pages == 18
        memory.touch(30, 10)
        memory.touch(0, 8)
        assert target.wait(20, progress=False)
        assert target.close().regions == 3
    assert memory.states() == ["right"] * 8 + ["zero"] * 22 + ["right"] * 10


def test_one_source_serves_many_targets_at_any_offset() -> None:
    data = random_bytes(8 * PAGE + 123)
    source = pyuffd.MemorySource(data)
    mapping = pyuffd.Mapping(8 * PAGE)
    offsets = [123, 0, 5, PAGE]
    regions = [
        pyuffd.Region(mapping.address + 2 * i * PAGE, 2 * PAGE, source, offset) for i, offset in enumerate(offsets)
    ]
    with pyuffd.serve(pyuffd.Userfaultfd(), regions) as target:
        target.close("fill")
    for i, offset in enumerate(offsets):
        assert mapping.array[2 * i * PAGE : 2 * (i + 1) * PAGE].tobytes() == data[offset : offset + 2 * PAGE]


def test_a_page_that_the_target_drops_reads_as_zeros_afterwards() -> None:
    memory = Managed(pages=4)
    with memory.serve(fault_around=1) as target:
        memory.touch(2, 1)
        _workload.release_pages(memory.at(2), PAGE)
        memory.toucher(2, 1, verified=False).join()
        assert memory.state(2) == "zero"
        until(lambda: target.stats().dropped == 1)  # counted after the wake
        target.close("fill")
    assert memory.states() == ["right", "right", "zero", "right"]


def test_a_fault_that_was_read_before_the_manager_came_is_served() -> None:
    memory = Managed(pages=4)
    uffd = pyuffd.Userfaultfd()
    uffd.register(memory.start, memory.length)
    toucher = memory.toucher(1, 1)
    (message,) = uffd.read()
    assert isinstance(message, pyuffd.Fault)
    with pyuffd.serve(uffd, [memory.region()], fault_around=1):
        assert toucher.join().wrong_pages == 0


def a_page_that_another_installed_wakes_its_toucher_child() -> None:
    slow = SlowSource()
    memory, source = slow.memory, slow.source
    uffd = pyuffd.Userfaultfd()
    twin = pyuffd.Userfaultfd.adopt(os.dup(uffd.fileno()))
    target = pyuffd.serve(uffd, [memory.region(source=source)], fault_around=1)
    toucher = memory.toucher(3, 1)
    until(lambda: twin.waiting() == (0, 1) and slow.waiting() == 1)  # the handler's COPY waits for its source
    twin.copy(memory.at(3), np.frombuffer(memory.data, np.uint8).ctypes.data + 3 * PAGE, PAGE, wake=False)
    slow.open_gate()
    tell(toucher.join().wrong_pages)
    twin.close()
    target.close("fill")
    tell(target.stats().eexist)


def test_a_page_that_another_installed_wakes_its_toucher() -> None:
    """COPY wakes only on success: whoever meets EEXIST has to wake, or the toucher sleeps for ever."""
    assert run_child(a_page_that_another_installed_wakes_its_toucher_child) == [0, 1]


def test_wait_without_touches_times_out() -> None:
    memory = Managed(pages=3)
    with memory.serve() as target:
        assert target.wait(timeout=0, progress=False) is False
        assert target.wait(timeout=-1, progress=False) is False
        began = time.monotonic()
        assert target.wait(timeout=0.15, progress=False) is False
        assert 0.1 <= time.monotonic() - began < 10
        target.fill()
        assert target.wait(timeout=float("inf"), progress=False) is True
        assert target.wait(timeout=0, progress=False) is True


@pytest.mark.parametrize("progress", [True, False])
def test_progress(progress: bool, capfd: pytest.CaptureFixture[str]) -> None:
    memory = Managed(pages=100)
    with memory.serve() as target:
        target.fill()
        target.wait(20, progress)
    out, err = capfd.readouterr()
    assert out == ""
    if progress:
        assert "100%" in err
        assert "page" in err
    else:
        assert err == ""


def test_stats_agree_with_each_other() -> None:
    memory = Managed(pages=200)
    with memory.serve(fault_around=4) as target:
        before = target.stats()
        assert (before.faults, before.pages, before.bytes) == (0, 0, 0)
        assert np.isnan(before.latency_quantile(0.5))
        memory.touch(threads=3, order="random", partition="all")
        assert target.wait(20, progress=False)
        target.close()
        stats = target.stats()
    assert stats.pages == 200
    assert stats.bytes == 200 * PAGE
    assert 0 < stats.reads <= stats.faults
    assert 200 / 64 <= stats.copies <= stats.faults
    assert (stats.zeropages, stats.dropped, stats.poisoned, stats.failed, stats.events) == (0, 0, 0, 0, 0)
    assert 0 < stats.latency.sum() <= stats.faults  # two threads at one page may be counted as one
    assert stats.latency.dtype == stats.latency_bounds.dtype == np.uint64
    assert len(stats.latency) == len(stats.latency_bounds)
    assert (np.diff(stats.latency_bounds.astype(np.int64)) > 0).all()
    quantiles = [stats.latency_quantile(share) for share in (0.01, 0.5, 0.9, 0.99, 1.0)]
    assert quantiles == sorted(quantiles)
    assert 0 < quantiles[0] <= quantiles[-1] < 20


def test_zero_source_is_served_by_zeropage() -> None:
    memory = Managed(pages=10)
    region = memory.region(source=pyuffd.ZeroSource())
    with pyuffd.serve(pyuffd.Userfaultfd(), [region]) as target:
        target.close("fill")
        stats = target.stats()
    assert stats.zeropages >= 1
    assert stats.copies == 0
    assert memory.states() == ["zero"] * 10


def test_handlers_and_fillers_are_held_to_cpus() -> None:
    cpu = min(os.sched_getaffinity(0))
    before = set(named_threads())

    def held() -> dict[str, str]:
        """The CPUs of the new threads, by the names that they give themselves."""
        return {
            name: Path(f"/proc/self/task/{task}/status").read_text().split("Cpus_allowed_list:")[1].split()[0]
            for task, name in named_threads().items()
            if task not in before and name.startswith(("uffd-handle", "uffd-fill"))
        }

    expected = {"uffd-handle-0": str(cpu), "uffd-fill-0": str(cpu), "uffd-fill-1": str(cpu)}
    with Managed(pages=2).serve(placement=[cpu], fillers=2):
        until(lambda: held() == expected)


def test_nothing_is_left_behind() -> None:
    memory = Managed(pages=4)
    before = open_descriptors()
    threads = set(named_threads())
    for _ in range(3):
        with memory.serve() as target:
            target.close("fill")
        _workload.release_pages(memory.start, memory.length)
    assert open_descriptors() == before
    until(lambda: not set(named_threads()) - threads, "the end of the manager's threads")


def test_a_target_says_what_it_is() -> None:
    memory = Managed(pages=4)
    with memory.serve() as target:
        assert repr(target) == f"<pyuffd.Target {target.id} of this process, serving, 4 of 4 pages missing>"
        assert target.pages == target.missing_pages == 4
        assert not target.ended
        target.close("fill")
        assert repr(target) == f"<pyuffd.Target {target.id} of this process, ended, 0 of 4 pages missing>"
        assert target.missing_pages == 0
        assert target.ended


def test_a_buffer_is_held_while_it_is_served_and_free_afterwards() -> None:
    memory = Managed(pages=2)
    data = bytearray(memory.data)
    source = pyuffd.MemorySource(data)
    target = pyuffd.serve(pyuffd.Userfaultfd(), [memory.region(source=source)])
    with pytest.raises(BufferError):
        data.clear()
    target.close("fill")
    del source, target

    def free() -> bool:
        try:
            data.append(0)
        except BufferError:
            return False
        return True

    until(free, "the release of the buffer")
    assert memory.states() == ["right"] * 2


def test_python_goes_on_while_threads_fault() -> None:
    """No part of the fault path needs the GIL: it is held here all along, and the pages come nevertheless."""
    memory = Managed(pages=500)
    with memory.serve(fault_around=1) as target:
        toucher = memory.toucher(order="random", threads=2)
        while toucher.running():  # never releases the GIL for long
            pass
        assert toucher.join().wrong_pages == 0
        assert target.wait(20, progress=False)


def test_many_python_threads_use_one_target() -> None:
    memory = Managed(pages=400)
    target = memory.serve()
    errors: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(20):
                target.fill()
                target.stats()
                target.wait(0.01, progress=False)
            target.close("fill")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert memory.states() == ["right"] * 400


def test_sleeping_threads_are_seen_in_fdinfo() -> None:
    memory = Managed(pages=2)
    with pyuffd.Userfaultfd() as uffd:
        uffd.register(memory.start, memory.length)
        toucher = memory.toucher(0, 1, verified=False)
        until(lambda: sleepers(uffd.fileno()) == 1)
        assert uffd.waiting() == (1, 1)
        uffd.zeropage(memory.start, PAGE)
        toucher.join()
        assert uffd.waiting() == (0, 0)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=12),
    touches=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 30)), max_size=20),
    window=st.sampled_from([1, 2, 3, 16, 1000]),
    seed=st.integers(0, 2**32),
)
def test_random_regions_and_touches(
    cuts: list[tuple[int, int]], touches: list[tuple[int, int]], window: int, seed: int
) -> None:
    """Regions of any lengths and gaps, touched in any sequence: managed pages are right, all others stay zero."""
    memory = Managed(pages=sum(pages + gap for pages, gap in cuts), seed=seed)
    regions, managed, first = [], [], 0
    for pages, gap in cuts:
        regions.append(memory.region(first, pages))
        managed += [True] * pages + [False] * gap
        first += pages + gap
    with pyuffd.serve(pyuffd.Userfaultfd(), regions, fault_around=window) as target:
        for start, count in touches:
            page = start % memory.pages
            memory.toucher(page, min(count, memory.pages - page), verified=False).join()
        target.close("fill")
    assert memory.states() == ["right" if page else "zero" for page in managed]


def test_a_timeout_that_is_no_number() -> None:
    with Managed(pages=1).serve() as target, pytest.raises(ValueError, match="not a number"):
        target.wait(float("nan"))


def lose_stderr(how: str) -> None:
    if how == "none":
        sys.stderr = None
    elif how == "descriptor":
        os.close(2)
    else:
        sys.stderr.close()


def wait_without_stderr(how: str) -> None:
    memory = Managed(pages=8)
    target = memory.serve()
    faulthandler.cancel_dump_traceback_later()
    lose_stderr(how)
    target.fill()
    tell(target.wait(progress=True))


@pytest.mark.parametrize("how", ["none", "descriptor", "closed"])
def test_waiting_without_stderr(how: str) -> None:
    assert run_child(wait_without_stderr, how) is True


def test_a_quantile_lies_between_0_and_1() -> None:
    with Managed(pages=1).serve() as target:
        for quantile in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="quantile is"):
                target.stats().latency_quantile(quantile)


def no_descriptor_left_is_no_matter_of_permission_child() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    taken = []
    try:
        while True:
            taken.append(pyuffd.Userfaultfd(user_mode_only=None))
    except OSError as error:
        tell([type(error).__name__, error.errno, "permit" in str(error)])


def test_no_descriptor_left_is_no_matter_of_permission() -> None:
    assert run_child(no_descriptor_left_is_no_matter_of_permission_child) == ["OSError", errno.EMFILE, False]


def test_report_and_counters_are_for_json() -> None:
    with Managed(pages=2).serve() as target:
        target.fill()
        target.wait()
        stats = json.loads(json.dumps(target.stats().to_dict()))
    report = json.loads(json.dumps(target.close().to_dict()))
    assert (stats["pages"], len(stats["latency"])) == (2, len(stats["latency_bounds"]))
    assert (report["regions"], report["missing_pages"], report["poisoned"]) == (1, 0, [])


def test_a_refused_close_says_how_many_pages_are_missing() -> None:
    with Managed(pages=3).serve() as target:
        with pytest.raises(pyuffd.MissingPagesError) as refused:
            target.close()
        assert refused.value.missing_pages == 3
