"""Targets that live: processes whose threads touch, write, drop, move and unmap their memory, and fork.

What is done in one is drawn from a seed. Every page is verified there, again and again (``_workload.churn``).
"""

import ctypes
import mmap
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import pyuffd
from pyuffd import _workload, handoff
from support.child import Child, hear, tell
from support.memory import PAGE


def _churn(fd: int, plan: dict[str, Any]) -> None:
    """What the process runs: hands its memory over, and does what is planned when it is told to."""
    mapping = pyuffd.Mapping(plan["pages"] * PAGE)
    if plan["thp"]:
        libc = ctypes.CDLL(None)
        advised = libc.madvise(ctypes.c_void_p(mapping.address), ctypes.c_size_t(mapping.length), mmap.MADV_HUGEPAGE)
        assert advised == 0
    uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENTS)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, uffd, [(mapping.address, mapping.length, 0, PAGE)])
    hear()
    done = _workload.churn(
        mapping.address,
        plan["pages"],
        plan["pattern"],
        seed=plan["seed"],
        threads=plan["threads"],
        seconds=plan["seconds"],
        between_forks=plan["between_forks"],
    )
    tell(done)
    hear()


@dataclass(frozen=True)
class ChurnPlan:
    """What a target does, and for how long.

    Attributes:
        pages: Of its memory.
        threads: That work in it.
        seconds: How long.
        between_forks: Seconds between two forks, about; 0 for none.
        seed: Of what is done.
        pattern: Seed of the bytes.
        thp: Whether the kernel may use huge pages.
    """

    pages: int = 1000
    threads: int = 3
    seconds: float = 1.0
    between_forks: float = 0.01
    seed: int = 1
    pattern: int = 7
    thp: bool = False

    def data(self) -> bytes:
        """The bytes of its memory."""
        data = np.empty(self.pages * PAGE, np.uint8)
        _workload.fill_pattern(data.ctypes.data, data.nbytes, self.pattern)
        return data.tobytes()


class ChurnTarget:
    """A process that carries out a plan, once it is told to go."""

    def __init__(self, child: Child, received: handoff.Handoff) -> None:
        self.child = child
        self.received = received

    def go(self) -> None:
        """Let it begin."""
        self.child.tell("go")

    def result(self) -> dict[str, int]:
        """Wait for what it did and saw."""
        found: dict[str, int] = self.child.hear()
        return found

    def finish(self) -> None:
        """Let it end, and wait for that."""
        self.child.tell("end")
        self.child.finish()


@contextmanager
def churning(plan: ChurnPlan, source: pyuffd.Source | None = None, **options: Any) -> Iterator[ChurnTarget]:
    """Start a target; it waits for ``go()``."""
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(_churn, theirs.fileno(), asdict(plan), sockets=[theirs], limit=plan.seconds + 30) as child,
    ):
        received = handoff.receive(ours, source or pyuffd.MemorySource(plan.data()), **options)
        yield ChurnTarget(child, received)
