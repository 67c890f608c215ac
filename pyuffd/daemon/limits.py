"""What a daemon may have."""

import contextlib
import resource
from pathlib import Path

_OTHERS, _OF_TARGET = 64, 6
_RESERVED = 24  # that one more target may take, with threads, events and the guard


def can_take(targets: int) -> bool:
    """Whether descriptors are left for so many more targets. A userfaultfd that finds no place would be lost.

    They are counted. To open some for a try would take them from the threads that receive.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:  # there is no /proc, or no descriptor for it
        used = limit if Path("/proc/self").exists() else 0
    return used + _RESERVED * targets <= limit


def check_enough(targets: int) -> None:
    """Check that the limit of descriptors suffices for so many targets.

    Raises:
        ValueError: It does not.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OTHERS + _OF_TARGET * targets
    if needed > limit:
        raise ValueError(f"{targets} tasks need {needed} descriptors, and {limit} are permitted: raise ulimit -n")


def allow_many_descriptors() -> None:
    """Raise the soft limit of descriptors to the hard one: each target has several."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
