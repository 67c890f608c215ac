"""Living targets under load: fork every few milliseconds, pages dropped, moved, unmapped and rewritten, all endings."""

import contextlib
import itertools
import signal
import time
from typing import Any

import pytest
from support.child import run_child, tell
from support.churning import ChurnPlan, ChurnTarget, churning
from support.memory import PAGE, Managed, random_bytes
from support.state import LIMIT, no_descriptor_leaks, open_descriptors, until

import pyuffd

pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.timeout(60)]

_FORKS = 6

ENDINGS = ("auto", "early-close", "unregister")


def add(manager: pyuffd.Manager, target: ChurnTarget) -> pyuffd.Target:
    return manager.add(target.received.uffd, target.received.regions, pid=target.received.pid)


def forked_by_each(target: pyuffd.Target, plan: ChurnPlan) -> None:
    """Wait until each thread has forked, and until enough forks came: later the target may end before the next."""
    until(lambda: target.stats().forks >= max(plan.threads, _FORKS), "a fork by each thread")


def expect_no_loss(churned: dict[str, int], stats: pyuffd.Stats) -> None:
    assert churned["wrong_pages"] == 0, hex(churned["first_wrong"])
    assert churned["broken_children"] == 0
    assert (stats.lost_wakes, stats.failed, stats.poisoned) == (0, 0, 0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("filled", [False, True], ids=["touched", "filled"])
def test_events_under_load(ending: Any, filled: bool) -> None:
    plan = ChurnPlan(pages=20_000, seed=ENDINGS.index(ending) * 2 + filled)
    with no_descriptor_leaks():
        with churning(plan) as target:
            served = pyuffd.serve(target.received.uffd, target.received.regions, pid=target.received.pid, ending=ending)
            target.go()
            if filled:
                forked_by_each(served, plan)
                served.fill()
            churned = target.result()
            report = served.close("fill")
            target.finish()
        expect_no_loss(churned, served.stats())
        assert (churned["forks"] >= _FORKS, churned["moves"] > 5, churned["drops"] > 5) == (True, True, True)
        assert report.missing_pages == 0
        assert report.ending == ("early-close" if ending == "auto" else ending)
        assert all(child.ended for child in served.children)


def test_events_of_three_targets_in_one_manager() -> None:
    plans = [ChurnPlan(seed=seed, pages=300 * seed, threads=seed) for seed in (1, 2, 3)]

    def serve_all(manager: pyuffd.Manager, targets: list[ChurnTarget]) -> None:
        served = [add(manager, target) for target in targets]
        for target in targets:
            target.go()
        served[1].fill()
        for target, its_served in zip(targets, served, strict=True):
            expect_no_loss(target.result(), its_served.stats())
            target.finish()

    with no_descriptor_leaks(), contextlib.ExitStack() as stack:
        targets = [stack.enter_context(churning(plan)) for plan in plans]
        serve_all(stack.enter_context(pyuffd.Manager(handlers=1)), targets)


def test_a_target_that_is_killed_under_load_disturbs_no_other() -> None:
    def serve_both(manager: pyuffd.Manager, doomed: ChurnTarget, other: ChurnTarget) -> None:
        first, second = add(manager, doomed), add(manager, other)
        doomed.go()
        other.go()
        forked_by_each(first, plan)
        doomed.child.signal(signal.SIGKILL)
        assert first.wait(LIMIT, progress=False)
        assert first.close().reason == "the target's address space is gone"
        expect_no_loss(other.result(), second.stats())
        second.close("fill")
        other.finish()

    plan = ChurnPlan(pages=20_000, seconds=20)
    with no_descriptor_leaks(), churning(plan) as doomed, churning(ChurnPlan(seed=2)) as other:
        with pyuffd.Manager(handlers=1) as manager:
            serve_both(manager, doomed, other)
        del manager


def forks_beyond_the_descriptor_limit_are_poisoned_and_stall_nobody_child() -> None:
    import resource

    from support.puppet import Puppet

    data = random_bytes(8 * PAGE)
    with Puppet.start() as puppet:
        start = puppet.do("map", 8 * PAGE, "anonymous")
        received = puppet.hand_over([(start, 8 * PAGE, 0, PAGE)], pyuffd.MemorySource(data), pyuffd.Feature.EVENTS)
        target = pyuffd.serve(received.uffd, received.regions, pid=received.pid, fault_around=1)
        assert puppet.do("read", start, PAGE) == data[:PAGE].hex()
        highest = max(int(name) for name in open_descriptors())
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, before[1]))
        puppet.do(
            "brood", 40, start + 5 * PAGE, data[5 * PAGE : 6 * PAGE].hex()
        )  # returns only when each of them is forked
        assert puppet.do("read", start + PAGE, PAGE) == data[PAGE : 2 * PAGE].hex()
        puppet.do("advise", start + 2 * PAGE, PAGE, 4)  # MADV_DONTNEED: other events go on
        assert puppet.do("read", start + 2 * PAGE, PAGE) == bytes(PAGE).hex()
        codes = puppet.do("harvest")
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        children = target.children
        until(lambda: all(child.ended for child in children))  # they exited
        unserved = [child.close() for child in children if "no descriptor" in child.close().reason]
        assert all(report.poisoned for report in unserved)
        tell([codes.count(0), codes.count(-signal.SIGBUS), len(codes), len(unserved)])
        target.close("fill")


@pytest.mark.requires_poison
def test_forks_beyond_the_descriptor_limit_are_poisoned_and_stall_nobody() -> None:
    served, poisoned, forked, unserved = run_child(
        forks_beyond_the_descriptor_limit_are_poisoned_and_stall_nobody_child
    )
    assert (served + poisoned, forked) == (40, 40)  # none read zeros
    assert unserved == poisoned > 0
    assert served > 0


@pytest.mark.parametrize(
    ("kind", "shared"), [("anonymous", False), ("anonymous", True), ("memfd", True), ("memfd", False)], ids=str
)
def test_bounces(kind: Any, shared: bool) -> None:
    """As the kernel's uffd-stress: rounds of racing and random faults on the same pages, each verified, each ending."""
    options = itertools.product(ENDINGS, ("sequential", "random"), ("all", "split"))
    deadline = time.monotonic() + 2.0
    for bounce, (ending, order, partition) in enumerate(itertools.cycle(options)):
        memory = Managed(pages=200, seed=bounce, kind=kind, shared=shared)
        with memory.serve(ending=ending, fault_around=1 + bounce % 20, fillers=1 + bounce % 2) as target:
            toucher = memory.toucher(threads=4, order=order, partition=partition)
            if bounce % 3 == 0:
                target.fill()
            assert toucher.join().wrong_pages == 0
        assert memory.states() == ["right"] * 200
        if time.monotonic() > deadline and bounce >= 12:
            break
