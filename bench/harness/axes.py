"""What is varied: the one list of parameter axes of all benchmarks."""

import mmap
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a report needs no extension
    from pyuffd import Ending, handoff

PAGE = mmap.PAGESIZE

Mode = Literal["missing", "wp", "minor", "shared"]

# Of Region, by the word that benchmarks use.
REGION_MODES: "dict[Mode, handoff.Mode]" = {
    "missing": "missing",
    "wp": "missing+wp",
    "minor": "minor",
    "shared": "missing+minor",
}

SETUPS = ("in-process", "across")
ENDINGS: "tuple[Ending, ...]" = ("early-close", "unregister")
FAULT_AROUND = (1, 16, 64)
THREADS = (1, 2, 4, 8)
MANY_THREADS = (1, 2, 4, 8, 16)
MEMORY = (64, 512, 2048, 8192)  # MiB
LOOKED_UP = (1, 16, 256, 4096, 16384)  # regions
REGIONS = (1, 16, 64, 256, 1024, 4096, 16384)
FILLERS = (1, 2)
WAKE_UPS = (30, 60, 120)  # microseconds, emulated
SLOW_WAKE_UP = 60  # for which goals are set
TARGETS = (1, 8, 64)
CROWDS = (8, 64, 512)  # threads of one target
CONTINUE_CHUNKS = (1, 16, 64, 512)  # pages
POPULATED = (4, 1024, 16384, 65536)
MODES: tuple[Mode, ...] = ("missing", "wp", "minor")
UNRELATED_VMAS = (1000, 10000, 30000)
WAITING = (0, 1, 64, 512)
WORKERS_BESIDE: tuple[Literal["target", "fault", "mmap", "populate"], ...] = ("target", "fault", "mmap", "populate")

# Bytes to one UFFDIO_COPY of the bulk floor: from 64 KiB on the system call does not show.
BULK_CHUNK = 256 * 1024
