"""What others leave to a manager: busy CPUs, one CPU, a quota."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_SPIN = "while True: pass"


@contextmanager
def busy_cpus() -> Iterator[None]:
    """Have a process compute on each CPU."""
    with ExitStack() as processes:
        for cpu in os.sched_getaffinity(0):
            spinner = processes.enter_context(subprocess.Popen([sys.executable, "-c", _SPIN]))
            processes.callback(spinner.kill)
            os.sched_setaffinity(spinner.pid, [cpu])
        yield


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
