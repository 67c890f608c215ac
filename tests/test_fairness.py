"""Targets of one handler take turns: one with very many faulting threads starves none of the others."""

import os
import sys
import time
import warnings

import pytest
from support.child import run_child, tell
from support.memory import PAGE, Managed
from support.puppet import Puppet
from support.state import until

import pyuffd

pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.requires_root]

LENGTH = 16 << 30
FAULTS = 100  # of the target that shall not starve


def add_busy(manager: pyuffd.Manager, puppet: Puppet, threads: int) -> pyuffd.Target:
    """Serve a target with this many threads, that fault for longer than a test may take.

    Its memory is zeros, and no page is touched twice.
    """
    start = puppet.do("map", LENGTH, "anonymous")
    got = puppet.hand_over([(start, LENGTH, 0, PAGE)], pyuffd.ZeroSource())
    target = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=1)
    os.setpriority(os.PRIO_PROCESS, puppet.pid, -15)  # its threads are back before the handler has served all of them
    puppet.do("begin_touches", start, LENGTH, PAGE, {"threads": threads, "timed": False})
    until(lambda: target.stats().faults > 2 * threads)
    return target


def leave() -> None:
    """Exit without the fills of an exit, which may have to wait for their turn, too."""
    sys.stderr.flush()
    os._exit(0)


def serve_beside_busy(threads: int, faults: int) -> None:
    warnings.simplefilter("ignore")  # of Python, about a thread that a failing child leaves
    manager = pyuffd.Manager(handlers=1)
    with Puppet.start() as puppet:
        busy = add_busy(manager, puppet, threads)
        memory = Managed(pages=faults)
        target = manager.add(pyuffd.Userfaultfd(), [memory.region()], fault_around=1)
        toucher = memory.toucher(order="random")
        ends = time.monotonic() + 8
        while toucher.running() and time.monotonic() < ends:
            os.sched_yield()
        if toucher.running():
            tell({"faults in 8 seconds": target.stats().faults})
            puppet.kill()
            leave()
        touches = toucher.join()
        assert touches.wrong_pages == 0
        longest = 0.0
        for _ in range(3):
            third = Managed(pages=10)
            to_close = manager.add(pyuffd.Userfaultfd(), [third.region()])
            began = time.monotonic()
            to_close.close("fill")
            longest = max(longest, time.monotonic() - began)
        assert puppet.do("touching")  # else there was nothing to starve for
        tell({"fault": touches.max_ns / 1e9, "close": longest})
        puppet.kill()
        assert busy.wait(10, progress=False)
        manager.close()


@pytest.mark.parametrize("threads", [64, 128, 512])
def test_many_threads_of_one_target_do_not_starve_another(threads: int) -> None:
    """A bound on starvation, not a measurement: the others' slowest fault, and the longest close, in seconds."""
    found = run_child(serve_beside_busy, threads, FAULTS)
    assert set(found) == {"fault", "close"}, found
    assert found["fault"] < 1, found
    assert found["close"] < 1, found
