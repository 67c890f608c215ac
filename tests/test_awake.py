"""How CPUs are kept awake during bursts of faults, for how long, and what it costs others."""

import errno
import os
import stat
import struct
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support.child import become_nobody, run_child, tell
from support.memory import Managed
from support.seccomp import forbid
from support.state import until

import pyuffd
from pyuffd import WakeUp

CPUS = sorted(os.sched_getaffinity(0))
DEVICE = Path("/dev/cpu_dma_latency")
ANY_LATENCY = 2_000_000_000  # the kernel's PM_QOS_CPU_LATENCY_DEFAULT_VALUE, in microseconds


def may_request() -> bool:
    return os.access(DEVICE, os.W_OK)


def latency() -> int:
    """The strictest request of all processes, in microseconds."""
    with DEVICE.open("rb", buffering=0) as file:
        found: int = struct.unpack("i", file.read(4))[0]
    return found


def burst(target: pyuffd.Target, memory: Managed) -> pyuffd.Stats:
    """Have one thread touch everything in random order, page by page."""
    memory.touch(order="random")
    assert target.wait(20, progress=False)
    return target.stats()


@pytest.mark.skipif(not may_request(), reason="needs write access to /dev/cpu_dma_latency")
def test_the_device_is_requested_during_bursts_only() -> None:
    memory = Managed(pages=4000)
    with memory.serve(fault_around=1, ending="keep-open") as target:
        assert latency() == ANY_LATENCY
        stats = burst(target, memory)
        until(lambda: latency() == ANY_LATENCY, "no request")
    assert stats.placement == "free; idle CPUs are kept awake in bursts by /dev/cpu_dma_latency"


def test_no_cpu_time_is_burnt_after_a_burst() -> None:
    memory = Managed(pages=4000)
    with memory.serve(fault_around=1, ending="keep-open") as target:
        burst(target, memory)
        quiet = threading.Event()
        quiet.wait(0.002)  # what is promised, and no synchronisation
        before = target.stats().awake_ns
        quiet.wait(0.05)
        assert target.stats().awake_ns == before


@pytest.mark.skipif(not may_request(), reason="needs write access to /dev/cpu_dma_latency")
def test_idle_cpus_are_kept_awake_as_long_as_it_serves() -> None:
    memory = Managed(pages=2)
    target = memory.serve(keep_awake=True)
    assert latency() == 0
    assert target.stats().placement == "free, idle CPUs kept awake"
    target.close("fill")
    assert latency() == ANY_LATENCY


def keep_awake_as_nobody() -> None:
    memory = Managed(pages=2)
    become_nobody()
    try:
        pyuffd.serve(pyuffd.Userfaultfd(user_mode_only=True), [memory.region()], keep_awake=True).close("zero")
    except pyuffd.UnsupportedError as error:
        tell([str(error), error.needs])
    else:
        tell(["permitted", []])


@pytest.mark.requires_root
def test_who_may_not_keep_cpus_awake_is_told_at_once() -> None:
    said, needs = run_child(keep_awake_as_nobody)
    if DEVICE.exists() and DEVICE.stat().st_mode & stat.S_IWOTH:
        assert said == "permitted"
    else:
        assert "idle CPUs cannot be kept awake: /dev/cpu_dma_latency" in said
        assert needs == ["/dev/cpu_dma_latency"]


def stats_as(who: str) -> None:
    """Tell the placement of a user, and what a burst found."""
    memory = Managed(pages=4000)
    if who == "nobody":
        become_nobody()
    else:
        forbid("sched_setscheduler", errno.EPERM)
    with pyuffd.serve(
        pyuffd.Userfaultfd(user_mode_only=True), [memory.region()], fault_around=1, ending="keep-open"
    ) as target:
        stats = burst(target, memory)
    tell([stats.placement, stats.wake_ns, stats.awake_ns, sum(stats.latency.tolist())])


@pytest.mark.requires_root
@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
@pytest.mark.parametrize(
    ("who", "way"),
    [
        ("nobody", "a warm thread keeps a CPU awake in bursts: /dev/cpu_dma_latency is not writable"),
        ("a filter of system calls", "no CPU is kept awake: a thread may not be at SCHED_IDLE"),
    ],
)
def test_what_may_not_be_had_is_a_slower_way(who: str, way: str) -> None:
    placement, _, _, faults = run_child(stats_as, who)
    assert placement.startswith(f"free; {way}")
    assert faults > 0


CGROUPS = Path("/sys/fs/cgroup")


def quota_of_half_a_cpu() -> Path:
    """Make a cgroup with one, in either version of the hierarchy; skip where that cannot be."""
    name = f"pyuffd-test-{os.getpid()}"
    try:
        if (CGROUPS / "cpu").is_dir():
            group = CGROUPS / "cpu" / name
            group.mkdir()
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            group = CGROUPS / name
            group.mkdir()
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        pytest.skip(f"no cgroup with a CPU quota can be made: {error}")
    return group


def stats_in(group: str) -> None:
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    memory = Managed(pages=100)
    with memory.serve(ending="keep-open") as target:
        tell(burst(target, memory).placement)


@pytest.mark.requires_root
def test_nothing_is_burnt_out_of_a_quota() -> None:
    group = quota_of_half_a_cpu()
    try:
        assert run_child(stats_in, str(group)) == "free; no CPU is kept awake: the cgroup has a CPU quota"
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "an empty cgroup")
        group.rmdir()


def test_others_choose_for_themselves() -> None:
    memory = Managed(pages=100)
    with memory.serve(placement="free") as target:
        assert burst(target, memory).placement == "free"


HERE = WakeUp(idle_ns=25_000, awake_ns=2_500, refused=0, cpuidle="haltpoll, haltpoll", halt_poll_ns=0, user="ann")


def test_what_a_wake_up_costs_here() -> None:
    found = pyuffd.probe().wake_up
    assert found is pyuffd.probe().wake_up
    assert (found.idle_ns is None) == (len(CPUS) < 2)
    assert (found.refused == 0) == may_request()
    assert (found.awake_ns is None) == (len(CPUS) < 2 or not may_request())
    assert found.idle_ns is None or 500 < found.idle_ns < 100_000_000


@pytest.mark.parametrize(
    ("found", "idle", "awake", "advice"),
    [
        (HERE, "25 us (cpuidle: haltpoll, haltpoll)", "2.5 us; placement 'auto'", []),
        (
            replace(HERE, awake_ns=None, refused=errno.EACCES),
            "25 us",
            "/dev/cpu_dma_latency is refused: Permission denied",
            [
                "setfacl -m u:ann:w /dev/cpu_dma_latency  (saves up to 50 us a fault, in bursts)",
                "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns",
                "placement='adopt'",
            ],
        ),
        (replace(HERE, awake_ns=None, refused=errno.EACCES, idle_ns=2_000, cpuidle=""), "2 us", "is refused", []),
        (replace(HERE, idle_ns=None, awake_ns=None), "this process may not use two CPUs", "not measured", []),
    ],
)
def test_what_would_make_faults_faster(found: WakeUp, idle: str, awake: str, advice: list[str]) -> None:
    assert idle in str(found)
    assert awake in found.awake
    assert len(found.advice) == len(advice)
    for told, expected in zip(found.advice, advice, strict=True):
        assert told.startswith(expected)


def wake_up_on_one_cpu() -> None:
    os.sched_setaffinity(0, CPUS[:1])
    tell(str(pyuffd.probe().wake_up))


def test_one_cpu_wakes_nobody() -> None:
    assert run_child(wake_up_on_one_cpu) == "not measured: this process may not use two CPUs"
