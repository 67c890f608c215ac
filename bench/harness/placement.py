"""Which CPU each thread of a benchmark is held to: the largest single lever of a fault's time."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyuffd import _workload

_DMA_LATENCY = "/dev/cpu_dma_latency"
_CPUS = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Placement:
    """Where the faulting threads and the handler run; () leaves them free.

    Attributes:
        awake: Whether /dev/cpu_dma_latency is held at 0, so that no idle CPU sleeps deeply.
    """

    name: str
    touchers: tuple[int, ...]
    handler: tuple[int, ...]
    awake: bool = False

    @property
    def unavailable(self) -> str:
        """Why this machine or this user cannot have it; empty where they can."""
        if len({*self.touchers, *self.handler}) > 1 and len(_CPUS) < 2:
            return "needs two CPUs"
        if self.awake and not os.access(_DMA_LATENCY, os.W_OK):
            return f"needs write access to {_DMA_LATENCY}"
        return ""

    @property
    def metadata(self) -> dict[str, str]:
        """What every benchmark's metadata says of it."""
        return {
            "placement": f"touchers {_text(self.touchers)}, handler {_text(self.handler)}",
            "cpu_dma_latency": "held at 0" if self.awake else "as it was",
        }

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep idle CPUs awake meanwhile, where this placement says so."""
        if not self.awake:
            yield
            return
        with _workload.DmaLatency():
            yield


@contextmanager
def confined(cpus: Iterable[int]) -> Iterator[None]:
    """Hold this thread, and what it starts, to these CPUs meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _text(cpus: tuple[int, ...]) -> str:
    return f"on CPU {', '.join(map(str, cpus))}" if cpus else "free"


FIRST = _CPUS[0]
SECOND = _CPUS[min(1, len(_CPUS) - 1)]

SAME = Placement("same-cpu", (FIRST,), (FIRST,))
OTHER_AWAKE = Placement("other-cpu-awake", (FIRST,), (SECOND,), awake=True)
OTHER = Placement("other-cpu", (FIRST,), (SECOND,))
FREE = Placement("free", (), ())
PLACEMENTS = (SAME, OTHER_AWAKE, OTHER, FREE)

# One thread of the target here, everything else there.
APART = Placement("apart", (FIRST,), (SECOND,))
