"""What benchmarks make of the machine for a while, and that they give it back."""

import os
import time
from pathlib import Path

import pytest
from support.state import open_descriptors

from bench.harness import conditions, slow_wake

CPUS = os.sched_getaffinity(0)


@pytest.mark.requires_root
@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_wake_ups_are_slow_for_a_while() -> None:
    if why := slow_wake.unavailable():
        pytest.skip(why)
    before = open_descriptors()
    with slow_wake.slow_wake(150e-6):
        # A CPU that others use meanwhile is not idle, and wakes up fast.
        assert max(slow_wake.wake_up() for _ in range(10)) > 100e-6
    assert open_descriptors() == before
    assert min(slow_wake.wake_up() for _ in range(10)) < 100e-6


def test_a_bystander_counts_its_turns() -> None:
    before = open_descriptors()
    with conditions.bystander() as other:
        with other.watched():
            time.sleep(0.05)
        assert 1e-9 < other.seconds_per_turn < 1e-3
    assert open_descriptors() == before


@pytest.mark.requires_root
def test_a_quota_holds_for_a_while() -> None:
    if why := conditions.quota_unavailable():
        pytest.skip(why)
    before = Path("/proc/self/cgroup").read_text()
    with conditions.cpu_quota(0.5):
        inside = Path("/proc/self/cgroup").read_text()
        assert f"pyuffd-bench-{os.getpid()}" in inside
    assert Path("/proc/self/cgroup").read_text() == before
    assert not list(Path("/sys/fs/cgroup").glob("**/pyuffd-bench-*"))
