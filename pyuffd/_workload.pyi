"""The workload of measurements: threads that touch pages and time every access, and the floors."""

from collections.abc import Sequence
from typing import Literal, TypedDict, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, Self

_Counts = npt.NDArray[np.uint64]

BIN_NS: int

def fill_pattern(address: int, length: int, seed: int) -> None: ...
def checksums(address: int, length: int, page_size: int = ...) -> _Counts: ...
def checksums_of(buffer: Buffer, page_size: int = ...) -> _Counts: ...
def bucket_bounds() -> _Counts: ...
def bulk_copy(
    fd: int,
    start: int,
    source: int,
    length: int,
    *,
    chunk: int,
    threads: int = 1,
    cpus: Sequence[int] = (),
) -> int: ...
def close_fd(fd: int) -> int: ...
def unregister_and_close(fd: int, ranges: Sequence[tuple[int, int]]) -> int: ...
def bulk_continue(fd: int, start: int, length: int, *, chunk: int) -> int: ...
def lazy_floor(fd: int, file: int, ranges: Sequence[tuple[int, int]], *, chunk: int) -> int: ...
def memcpy_floor(destination: int, source: int, length: int) -> int: ...
def read_floor(fd: int, destination: int, length: int, *, chunk: int) -> int: ...
def native_touch(address: int, length: int, page_size: int) -> int: ...
def read_and_move(file: int, fd: int, start: int, length: int) -> int: ...
def sigbus_touch(fd: int, start: int, source: int, length: int, *, window: int = 1, page_size: int = 4096) -> int: ...
def release_pages(address: int, length: int) -> None: ...
def warm(length: int) -> None: ...

class _CloseRace(TypedDict):
    closes: int
    raced: int
    accesses: int
    sigbus: int
    wrong: int
    lost: int
    elapsed_ns: int

def race_closes(
    *,
    threads: int,
    pages: int,
    kind: Literal["anonymous", "memfd", "hugetlb"] = "anonymous",
    shared: bool = False,
    thp: bool = False,
    write: bool = False,
    complete: bool = True,
    closes: int,
    seconds: float = 60.0,
) -> _CloseRace: ...

class _Churned(TypedDict):
    reads: int
    writes: int
    drops: int
    moves: int
    unmaps: int
    forks: int
    kills: int
    wrong_pages: int
    broken_children: int
    first_wrong: int

def churn(
    address: int,
    pages: int,
    pattern: int,
    *,
    seed: int = 1,
    threads: int = 2,
    seconds: float = 1.0,
    between_forks: float = 0.005,
    moves: bool = True,
    drops: bool = True,
    unmaps: bool = True,
) -> _Churned:
    """Run threads that touch, write, drop, move and unmap private anonymous memory, and that fork.

    The memory has the bytes of ``fill_pattern()``.
    """

def count_lost_wakes(
    release: Literal["unregister", "unregister-and-wake", "close"],
    *,
    threads: int = 4,
    pages: int = 64,
    rounds: int,
    seconds: float = 60.0,
) -> tuple[int, int]: ...

@final
class Touches:
    @property
    def origin_ns(self) -> int: ...
    @property
    def elapsed_ns(self) -> int: ...
    @property
    def thread_elapsed_ns(self) -> list[int]: ...
    @property
    def touched(self) -> int: ...
    @property
    def wrong_pages(self) -> int: ...
    @property
    def wrong_addresses(self) -> list[int]: ...
    @property
    def minor_faults(self) -> int: ...
    @property
    def major_faults(self) -> int: ...
    @property
    def cpu_ns(self) -> int: ...
    @property
    def max_ns(self) -> int: ...
    @property
    def histogram(self) -> _Counts: ...
    @property
    def timeline_overflow(self) -> int: ...
    @property
    def timeline_count(self) -> _Counts: ...
    @property
    def timeline_sum_ns(self) -> _Counts: ...
    @property
    def timeline_max_ns(self) -> _Counts: ...
    @property
    def timeline_histogram(self) -> npt.NDArray[np.uint32]: ...

@final
class Toucher:
    def __init__(
        self,
        ranges: Sequence[tuple[int, int]],
        *,
        page_size: int = ...,
        order: Literal["sequential", "random", "stride"] = "sequential",
        stride: int = 1,
        partition: Literal["split", "interleaved", "all"] = "split",
        seed: int = 0,
        write: bool = False,
        timed: bool = True,
        passes: int = 1,
        think_ns: int = 0,
        checksums: _Counts | None = None,
        threads: int = 1,
        cpus: Sequence[int] = (),
        timeline_bins: int = 10_000,
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def running(self) -> bool: ...
    def join(self) -> Touches: ...

@final
class Bystanders:
    def __init__(
        self,
        kind: Literal["fault", "mmap", "populate"],
        *,
        threads: int = 1,
        pages: int = 16,
        cpus: Sequence[int] = (),
        timeline_bins: int = 10_000,
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> Touches: ...

@final
class FloorServer:
    def __init__(
        self,
        fd: int,
        *,
        start: int,
        length: int,
        source: int,
        copies: int,
        page_size: int = ...,
        window: int = 1,
        reader: Literal["poll", "read", "spin"] = "poll",
        cpu: int | None = None,
        workers: int = 0,
    ) -> None: ...
    def start(self) -> None: ...
    def join(self) -> tuple[int, int]: ...

@final
class EpollFloor:
    def __init__(self, targets: Sequence[tuple[int, int, int]], *, copies: int, cpu: int | None = None) -> None: ...
    def start(self) -> None: ...
    def join(self) -> None: ...

@final
class DmaLatency:
    def __init__(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
