"""Wake-ups of idle CPUs as slow as some hosts have them, emulated where they are fast.

Tracepoints of interrupts (irq_vectors) get many filters by perf_event_open(2). A filter asks first whether the CPU is
idle; if it is, the filter makes some hundred more comparisons, so that the CPU takes that much longer to come out of
its halt. Hardly anything else is slowed: an idle CPU that polls gets no interrupt, and one that runs a thread is not
idle.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyuffd import _core

_TRACEPOINTS = Path("/sys/kernel/tracing/events/irq_vectors")
_EVENTS = ("call_function_single_entry", "reschedule_entry")
_PERF_EVENT_OPEN = 298  # x86_64; other machines have no irq_vectors
_TYPE_TRACEPOINT = 2
_SET_FILTER = 0x40082406  # PERF_EVENT_IOC_SET_FILTER
_FILTER = b"common_pid==0 && (" + b"||".join([b"vector==1"] * 300) + b")\0"  # no interrupt has that vector
_STEP, _MOST = 5, 300  # filters of an event on one CPU

_libc = ctypes.CDLL(None, use_errno=True)


def unavailable() -> str:
    """Why it cannot be had; empty where it can."""
    if platform.machine() != "x86_64":
        return "slow wake-ups are emulated on x86_64 alone"
    if os.geteuid() != 0:
        return "slow wake-ups are emulated by root alone"
    if not (_TRACEPOINTS / _EVENTS[0] / "id").exists():
        return f"slow wake-ups are emulated with {_TRACEPOINTS}, which this kernel lacks or has not mounted"
    return ""


@contextmanager
def slow_wake(seconds: float) -> Iterator[None]:
    """Slow wake-ups down until they take so long at least, as two threads see them that wake each other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as filters:
            for _ in range(_MOST // _STEP):
                if wake_up() >= seconds:
                    break
                for cpu in os.sched_getaffinity(0):
                    for event in _EVENTS:
                        for _ in range(_STEP):
                            filters.callback(os.close, _filter(event, cpu))
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wake_up() -> float:
    """Seconds to wake a thread on an idle CPU, as a quiet machine has it."""
    idle_ns, _, _ = _core.wake_ups()
    if idle_ns is None:
        raise OSError(errno.ENOTSUP, "a wake-up of an idle CPU takes two CPUs")
    return idle_ns * 1e-9


def _filter(event: str, cpu: int) -> int:
    """Have one event on one CPU filtered; returns the descriptor that ends it."""
    number = int((_TRACEPOINTS / event / "id").read_text())
    # struct perf_event_attr, as it was first (PERF_ATTR_SIZE_VER0)
    attributes = ctypes.create_string_buffer(
        struct.pack("IIQQQQQIIQ", _TYPE_TRACEPOINT, 64, number, 1, 0, 0, 0, 0, 0, 0), 64
    )
    fd: int = _libc.syscall(_PERF_EVENT_OPEN, attributes, -1, cpu, -1, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"perf_event_open of {event} on CPU {cpu}")
    if _libc.ioctl(fd, ctypes.c_ulong(_SET_FILTER), _FILTER) != 0:  # longer than fcntl.ioctl takes
        raise OSError(ctypes.get_errno(), f"the filter of {event} on CPU {cpu}")
    return fd
