"""The CPU time that serving takes."""

import time
from collections.abc import Callable

from .case import Sample
from .targets import ChildTarget, Target


def with_cpu_time(target: Target, measure: Callable[[], float], pages: int, metric: str = "time") -> Sample:
    """The seconds per page, and the CPU time that this process and the target burnt for each, mapping included."""
    theirs, ours = _spent(target), time.process_time()
    seconds = measure()
    burnt = _spent(target) - theirs + time.process_time() - ours
    return Sample({metric: seconds, "burnt": burnt / pages})


def _spent(target: Target) -> float:
    """CPU seconds of the target's process, if that is another one."""
    if not isinstance(target, ChildTarget):
        return 0.0
    return time.clock_gettime((~target.pid << 3) | 2)  # clock_getcpuclockid(3)
