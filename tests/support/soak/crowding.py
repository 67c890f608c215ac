"""Parts of the soak beside which another target of the same handler goes on: execs, and very many threads."""

import contextlib
import dataclasses
import os
import random

import pyuffd
from support.kinds import ANONYMOUS, MEMFD, SHARED, THP, Area
from support.memory import Managed
from support.puppet import Puppet
from support.soak.counting import ENDINGS, Counts, count_close, count_stats, count_touches, count_wrong, leaks_counted
from support.soak.living import slice_of
from support.state import until

_THREADS = 256


def execs(draw: random.Random) -> Counts:
    """Targets become other programs while their threads fault: they end, and what they have forked lives on."""
    counts = Counts()
    with Puppet.start() as first, first.fork() as second, leaks_counted(counts):
        _execute_some(draw, counts, first, second)
    return counts


def _execute_some(draw: random.Random, counts: Counts, first: Puppet, second: Puppet) -> None:
    with pyuffd.Manager(handlers=1, fillers=draw.choice((1, 2))) as manager:
        beside, other = _begin_beside(draw, manager, second)
        for _ in range(draw.choice((3, 10))):
            with first.fork() as doomed:
                _execute(draw, counts, manager, doomed)
            first.do("reap", doomed.pid)
        count_touches(counts, beside)
        count_close(counts, other)


def _begin_beside(draw: random.Random, manager: pyuffd.Manager, puppet: Puppet) -> tuple[Area, pyuffd.Target]:
    """A target that is touched while others make trouble."""
    area = Area(puppet, draw.choice((ANONYMOUS, SHARED, MEMFD, THP)))
    late = pyuffd.CallableSource(slice_of(area.data), area.length)
    got = area.hand_over(draw.choice((area.source, late)), features=draw.choice((0, pyuffd.Feature.EVENTS)))
    target = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=draw.choice((1, 4)))
    area.begin_touches(threads=draw.choice((1, 4)))
    return area, target


def _execute(draw: random.Random, counts: Counts, manager: pyuffd.Manager, puppet: Puppet) -> None:
    """Have a puppet execute another program: before it is served, or while it is."""
    kind = dataclasses.replace(draw.choice((ANONYMOUS, SHARED, MEMFD)), pages=draw.choice((1, 48, 3000)))
    area = Area(puppet, kind)
    events = draw.random() < 0.5
    source = draw.choice((area.source, pyuffd.CallableSource(slice_of(area.data), area.length)))
    got = area.hand_over(source, features=pyuffd.Feature.EVENTS if events else 0)
    early = draw.random() < 0.2
    if early:
        puppet.post("execute")
    target = manager.add(got.uffd, got.regions, pid=got.pid, ending=draw.choice(ENDINGS), fault_around=1)
    with contextlib.ExitStack() as stack:
        child = None
        if not early:
            area.begin_touches(threads=draw.choice((1, 4, 16)))
            child = stack.enter_context(puppet.fork()) if events and draw.random() < 0.5 else None
            if draw.random() < 0.3:
                target.fill()
            puppet.post("execute")
        if child is None:
            until(lambda: target.ended, "the end of a target that became another program")
        else:
            count_wrong(counts, area, child)
        target.close("zero")
        count_stats(counts, target)
    counts["execs"] += 1


def crowds(draw: random.Random) -> Counts:
    """Very many threads of one target fault at once; another target of the handler, and own memory, come as well."""
    counts = Counts()
    with Puppet.start() as first, first.fork() as second, leaks_counted(counts):
        _crowd(draw, counts, first, second)
    return counts


def _crowd(draw: random.Random, counts: Counts, first: Puppet, second: Puppet) -> None:
    kind = dataclasses.replace(draw.choice((ANONYMOUS, SHARED, MEMFD)), pages=draw.choice((300, 3000, 10_000)))
    with pyuffd.Manager(handlers=1) as manager:
        area = Area(first, kind)
        late = pyuffd.CallableSource(slice_of(area.data), area.length)
        got = area.hand_over(draw.choice((area.source, late)), features=draw.choice((0, pyuffd.Feature.EVENTS)))
        target = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=draw.choice((1, 4, "auto")))
        os.setpriority(os.PRIO_PROCESS, first.pid, draw.choice((0, -15)))
        area.begin_touches(threads=_THREADS, partition=draw.choice(("all", "interleaved")))
        beside, other = _begin_beside(draw, manager, second)
        for _ in range(draw.choice((1, 5))):
            memory = Managed(pages=20)
            own = manager.add(pyuffd.Userfaultfd(), [memory.region()])
            counts["wrong pages"] += memory.toucher(order="random", threads=2).join().wrong_pages
            count_close(counts, own)
        if draw.random() < 0.3:
            target.fill()
        count_touches(counts, beside)
        count_close(counts, other)
        count_touches(counts, area)
        count_close(counts, target)
        counts["crowds"] += 1
