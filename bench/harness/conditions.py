"""What others leave to a manager: busy CPUs, one CPU, a quota; and a bystander, to which a manager leaves the rest."""

import math
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_SPIN = "while True: pass"
_COUNT = """
import mmap
turns = memoryview(mmap.mmap({fd}, 8)).cast("Q")
while True:
    turns[0] += 1
"""


@contextmanager
def busy_cpus() -> Iterator[None]:
    """Have a process compute on each CPU."""
    with ExitStack() as processes:
        for cpu in os.sched_getaffinity(0):
            spinner = processes.enter_context(subprocess.Popen([sys.executable, "-c", _SPIN]))
            processes.callback(spinner.kill)
            os.sched_setaffinity(spinner.pid, [cpu])
        yield


class Bystander:
    """A process that computes, and counts its turns in memory that it shares."""

    def __init__(self, turns: memoryview) -> None:
        self._turns = turns
        self.seconds_per_turn = math.nan

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Find the seconds of each of its turns meanwhile."""
        turns, began = self._turns[0], time.perf_counter()
        yield
        self.seconds_per_turn = (time.perf_counter() - began) / (self._turns[0] - turns)


@contextmanager
def bystander() -> Iterator[Bystander]:
    """Have a process compute, on whichever CPU the scheduler chooses."""
    descriptor = os.memfd_create("turns")
    try:
        os.truncate(descriptor, mmap.PAGESIZE)
        command = [sys.executable, "-c", _COUNT.format(fd=descriptor)]
        with (
            mmap.mmap(descriptor, 8) as shared,
            memoryview(shared) as raw,
            raw.cast("Q") as turns,
            subprocess.Popen(command, pass_fds=[descriptor]) as process,
        ):
            try:
                while not turns[0]:
                    time.sleep(1e-3)
                yield Bystander(turns)
            finally:
                process.kill()
    finally:
        os.close(descriptor)


def quota_unavailable() -> str:
    """Why no quota can be set; empty where one can."""
    folder = _cpu_folder()
    if not os.access(folder, os.W_OK):
        return f"a CPU quota takes write access to {folder}"
    if not (folder / _quota_file()).exists() and not (folder / "cgroup.controllers").exists():
        return f"{folder} has no CPU quotas"
    return ""


@contextmanager
def cpu_quota(cpus: float, *pids: int) -> Iterator[None]:
    """Put this process and others into a cgroup that may use that many CPUs."""
    group = _cpu_folder() / f"pyuffd-bench-{os.getpid()}"
    group.mkdir()
    try:
        quota = int(cpus * _PERIOD_US)
        (group / _quota_file()).write_text(f"{quota} {_PERIOD_US}" if _is_unified() else str(quota))
        members = (os.getpid(), *pids)
        for pid in members:
            (group / "cgroup.procs").write_text(str(pid))
        try:
            yield
        finally:
            for pid in members:
                (_cpu_folder() / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()


def _is_unified() -> bool:
    return not (_CGROUPS / "cpu").is_dir()


def _cpu_folder() -> Path:
    return _CGROUPS if _is_unified() else _CGROUPS / "cpu"


def _quota_file() -> str:
    return "cpu.max" if _is_unified() else "cpu.cfs_quota_us"
