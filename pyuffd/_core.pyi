"""The manager."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, Self

from pyuffd._flags import FaultFlag, Feature

__version__: str
build_type: str

class UnsupportedError(OSError):
    """What this kernel or this user cannot do; the message names what to change.

    Attributes:
        needs: What would permit it, in the kernel's words, such as ``"Linux 6.6"``, ``"CAP_SYS_PTRACE"``,
            ``"/dev/userfaultfd"``, ``"vm.unprivileged_userfaultfd=1"``, ``"seccomp"`` (a filter to be relaxed) or
            ``"CONFIG_HUGETLBFS"``. Each of them is enough alone. Empty where no change of the system helps.
    """

    needs: tuple[str, ...]

class MissingPagesError(RuntimeError):
    """close(missing='raise') met missing pages; the target is served on.

    Attributes:
        missing_pages: How many.
    """

    missing_pages: int

class _Probe(TypedDict):
    kernel: str
    page_size: int
    hugetlb_page_size: int
    device: int
    syscall: int
    user_mode_only: int
    fork_events: int
    unprivileged_userfaultfd: int
    features: int

class _Release(TypedDict):
    generation: str
    by_experiment: bool
    rounds: int
    minor_faults: int
    lost_wakes: tuple[int, int] | None

class _ReleaseFinding(TypedDict):
    generation: str | None
    reason: str
    rounds: int
    minor_faults: int
    seconds: float
    lost_wakes: tuple[int, int] | None

def probe() -> _Probe: ...
def wake_ups() -> tuple[int | None, int | None, int]: ...
def release() -> _Release:
    """What is known of this kernel: no experiment."""

def release_experiment(lost_wake_seconds: float) -> _ReleaseFinding:
    """Find it out, and keep it for this boot."""

def release_by_version() -> str: ...
def journal_open() -> None: ...
def journal_shut() -> None: ...
def journal_read(seconds: float | None) -> tuple[str, int, int, int, int, str, EndingReport | None] | None: ...
def journal_dropped() -> int: ...
def page_size() -> int: ...
def offered_features() -> int: ...
def feature_names(features: int) -> str: ...
def latency_bounds() -> list[int]: ...
def regain_sigbus() -> bool: ...
def touch(memory: Buffer | npt.NDArray[Any], offset: int, length: int | None) -> None: ...
def watch_adoptions(process: int, ledger: int, done: int, ready: int) -> None: ...
def _raise_system_error(error: int, text: str) -> None: ...

@final
class Fault:
    """A thread sleeps on this page until it is resolved (uffd_msg, UFFD_EVENT_PAGEFAULT)."""

    @property
    def address(self) -> int:
        """Of the access; page-aligned unless the userfaultfd has the feature EXACT_ADDRESS."""

    @property
    def flags(self) -> FaultFlag:
        """The kind of the access."""

    @property
    def thread(self) -> int:
        """Its id in the target's pid namespace; 0 without the feature THREAD_ID."""

@final
class RemapEvent:
    """The target moved memory (UFFD_EVENT_REMAP)."""

    @property
    def from_(self) -> int:
        """Where the memory was."""

    @property
    def to(self) -> int:
        """Where it is now."""

    @property
    def length(self) -> int:
        """In bytes."""

@final
class RemoveEvent:
    """The target dropped pages (UFFD_EVENT_REMOVE)."""

    @property
    def start(self) -> int:
        """The first address that was dropped."""

    @property
    def end(self) -> int:
        """The first address behind what was dropped."""

@final
class UnmapEvent:
    """The target unmapped memory (UFFD_EVENT_UNMAP)."""

    @property
    def start(self) -> int:
        """The first address that was unmapped."""

    @property
    def end(self) -> int:
        """The first address behind what was unmapped."""

@final
class UnknownEvent:
    """An event that this version does not know."""

    @property
    def event(self) -> int:
        """Its number (UFFD_EVENT_x)."""

@final
class Userfaultfd:
    """A userfaultfd, opened and past UFFDIO_API: every ioctl one to one (userfaultfd(2), ioctl_userfaultfd(2)).

    It is non-blocking and close-on-exec, and a fork child closes it at once. ``serve()`` and ``Manager.add()`` take it
    over; after that, and after ``close()``, every call is a ValueError. Calls that the kernel refuses raise
    OSError with its errno. Addresses and lengths are in bytes.

    Args:
        features: ``Feature`` bits to ask for.
        user_mode_only: False opens /dev/userfaultfd, else userfaultfd(2), and serves kernel accesses too. True needs
            no permission, but kernel accesses to missing pages fail with EFAULT. None is False where that is permitted,
            else True: the property ``user_mode_only`` says which.

    Raises:
        UnsupportedError: It cannot be opened, or this kernel lacks a feature; the message names what to change.
    """

    def __init__(self, features: int = 0, user_mode_only: bool | None = None) -> None: ...
    @staticmethod
    def adopt(fd: int) -> Userfaultfd:
        """Take over a descriptor that another process opened and registered.

        Raises:
            ValueError: It is no userfaultfd, or its opener did not do UFFDIO_API; the descriptor is closed.
        """
    def fileno(self) -> int:
        """The descriptor, which belongs to this object."""

    def close(self) -> None:
        """Close it. Memory that is still registered is released with the last descriptor, and what is missing in it
        reads as zeros.

        Raises:
            RuntimeError: Another thread is inside a call.
        """
    @property
    def closed(self) -> bool:
        """Whether it was closed, or is served."""

    @property
    def features(self) -> Feature:
        """Those that are on."""

    @property
    def user_mode_only(self) -> bool:
        """Whether kernel accesses to missing pages fail with EFAULT."""

    @property
    def registered_by_sender(self) -> bool:
        """Whether another process opened it, and registers its memory."""

    def waiting(self) -> tuple[int, int]:
        """Faults that nobody has read yet, and all whose threads sleep, read or not (fdinfo: pending, total)."""
    def read(
        self, most: int = 64, timeout: float | None = None
    ) -> list[Fault | RemapEvent | RemoveEvent | UnmapEvent | UnknownEvent | Userfaultfd]:
        """Read messages, waiting for the first. A FORK event is the child's Userfaultfd.

        Args:
            most: How many at most.
            timeout: Seconds to wait; None without end. Ctrl-C works.

        Returns:
            The messages; empty on timeout.
        """
    def register(self, start: int, length: int, mode: int = ...) -> int:
        """UFFDIO_REGISTER, for missing faults unless ``mode`` (``RegisterMode`` bits) says otherwise.

        Returns:
            The ioctls that the range admits, as bits ``1 << _UFFDIO_x``.
        """
    def unregister(self, start: int, length: int) -> None:
        """UFFDIO_UNREGISTER. Follow it with ``wake()``: it can leave a thread asleep."""
    def wake(self, start: int, length: int) -> None:
        """UFFDIO_WAKE."""
    def copy(
        self,
        destination: int,
        source: int,
        length: int,
        *,
        wake: bool = True,
        write_protect: bool = False,
    ) -> int:
        """UFFDIO_COPY.

        Returns:
            Bytes installed, fewer than ``length`` where it stopped on the way. The other fills answer alike.

        Raises:
            OSError: Nothing was installed; EEXIST: another did: wake the page, EAGAIN: try again later.
        """
    def zeropage(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_ZEROPAGE."""
    def writeprotect(self, start: int, length: int, protect: bool, *, wake: bool = True) -> None:
        """UFFDIO_WRITEPROTECT (Linux 5.7); with ``protect`` the kernel wakes nobody and refuses ``wake=False``."""
    def scan_written(self, start: int, length: int, *, protect: bool = False, pid: int = 0) -> list[tuple[int, int]]:
        """PAGEMAP_SCAN (Linux 6.7): what was written to, of memory that a userfaultfd with the feature WP_ASYNC has
        registered for write-protect faults; the kernel resolves these by itself.

        Args:
            start: In bytes, page-aligned.
            length: In bytes.
            protect: Write-protect what is found again, in the same step.
            pid: The process whose memory it is; 0 is this one.

        Returns:
            (start, length) in bytes, by address.

        Raises:
            OSError: EPERM: it is not registered so; ENOTTY: an older kernel.
        """
    def continue_(self, start: int, length: int, *, wake: bool = True, write_protect: bool = False) -> int:
        """UFFDIO_CONTINUE (Linux 5.13)."""
    def poison(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_POISON (Linux 6.6)."""
    def move(
        self,
        destination: int,
        source: int,
        length: int,
        *,
        wake: bool = True,
        allow_holes: bool = False,
    ) -> int:
        """UFFDIO_MOVE (Linux 6.8), in this process only."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

@final
class Mapping:
    """An owned range of zeroed, readable and writable memory.

    Args:
        length: Bytes; rounded up to whole pages.
        kind: ``"anonymous"``, ``"memfd"`` or ``"hugetlb"``.
        shared: MAP_SHARED instead of MAP_PRIVATE.

    Raises:
        OSError: No memory; for hugetlb the message tells how to reserve pages.
    """

    def __init__(
        self,
        length: int,
        kind: Literal["anonymous", "memfd", "hugetlb"] = "anonymous",
        shared: bool = False,
    ) -> None: ...
    @property
    def address(self) -> int:
        """Where it begins."""

    @property
    def length(self) -> int:
        """In bytes."""

    @property
    def page_size(self) -> int:
        """In bytes."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """A view of the bytes, counted by the mapping; it keeps the memory mapped."""
    @property
    def closed(self) -> bool:
        """Whether it was unmapped."""

    def close(self) -> None:
        """Unmap. Idempotent.

        Raises:
            BufferError: Arrays still view it.
            RuntimeError: It is served: close its target first.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

class Source:
    """Where the bytes of pages come from; made as one of its subclasses."""

    @property
    def length(self) -> int:
        """In bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of the bytes at ``offset``.

        Raises:
            IndexError: They lie behind the end.
        """

@final
class MemorySource(Source):
    """Bytes of this process's memory, which it keeps alive.

    Args:
        buffer: A C-contiguous buffer; what is written to it later may or may not be seen.
    """

    # An array is no Buffer to numpy's stubs before Python 3.12.
    def __init__(self, buffer: Buffer | npt.NDArray[Any]) -> None: ...

@final
class FileSource(Source):
    """A regular file, mapped. Where it shrinks while it serves, its missing whole pages are poisoned.

    Args:
        path: Of the file; it is opened once, so it may be renamed later.
        direct: Read it past the page cache (O_DIRECT), which is then not filled beside the memory: for files that are
            not in it and will not be needed again. Into this process's memory its huge pages are moved, where its
            userfaultfd was opened with ``Feature.MOVE``.

    Raises:
        OSError: It cannot be opened.
        UnsupportedError: Its file system does not do O_DIRECT.
        ValueError: It is empty or not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str], *, direct: bool = False) -> None: ...
    @property
    def path(self) -> str:
        """As it was given; it may have been renamed since."""

@final
class ZeroSource(Source):
    """Zeros without end."""

    def __init__(self) -> None: ...

@final
class CallableSource(Source):
    """A Python function, for the pages of other processes: whoever sleeps for a page of this one may hold the GIL.

    Threads of the manager call it, several at once, each when it gets the GIL; no other fault waits meanwhile. Bytes
    that it fails to return are poisoned, and ``sys.unraisablehook`` is told why.

    Args:
        read: Called with (offset, length) in bytes; returns a buffer of that length.
        length: Of the whole source, in bytes.
        deadline: Seconds from a fault, or from a fill's call, to the poisoning of the pages, if their bytes have not
            come by then; None waits without end.

    Raises:
        TypeError: read is not callable.
        ValueError: A deadline that is not positive.
    """

    def __init__(self, read: Callable[[int, int], Buffer], length: int, *, deadline: float | None = None) -> None: ...

class SharedImage(Source):
    """The bytes of a source in one file in memory; see ``pyuffd.SharedImage``.

    Args:
        source: Where the bytes come from.
        kind: ``"memfd"``, or ``"hugetlb"``.
    """

    def __init__(self, source: Source, *, kind: Literal["memfd", "hugetlb"] = "memfd") -> None: ...
    @property
    def page_size(self) -> int:
        """Of its memory, in bytes."""

    @property
    def missing_pages(self) -> int:
        """How many were not filled yet."""

    def fileno(self) -> int:
        """Return its descriptor, which belongs to the image: send it to a target, which maps it."""

    def map(self, offset: int = 0, length: int | None = None, *, shared: bool = False) -> Mapping:
        """Map it, or whole pages of it, into this process.

        Raises:
            ValueError: Offset or length are no whole pages of it.
        """

    def fill(self) -> None:
        """Start to fill it in the background; returns at once."""

    def _wait(self, seconds: float) -> bool | None: ...

@final
class Region:
    """One range of a target's memory.

    Args:
        start: Its address in the target.
        length: Bytes.
        source: Where its bytes come from; None, for ``mode="minor"``, where they are in the page cache already.
        source_offset: Where in the source they begin.
        page_size: Of its memory: this system's (4096 on x86-64), or that of a hugetlb pool.
        mode: Which faults are served (UFFDIO_REGISTER_MODE_x). ``"missing"``: of pages that are not there.
            ``"minor"`` (Linux 5.13): of pages that are in the page cache (memfd, shared anonymous, hugetlb) and not
            mapped; with this mode alone a hole reads as zeros, and nobody is told. ``"missing+minor"``: both; what is
            not in the page cache comes from the source. ``"missing+wp"`` (Linux 5.7): pages are installed
            write-protected, and the first write to each is noted: ``Target.written()``.
        on_remove: What becomes of missing pages that the target removes (userfaultfds with EVENT_REMOVE): ``"keep"``:
            they still come from the source, as after MADV_DONTNEED of shared memory; ``"zero"``: they read as zeros,
            as after MADV_REMOVE; ``"poison"``: touching them is SIGBUS; ``"auto"``: zero for private memory, poison
            for shared memory, of which the kernel does not tell the one from the other.

    Raises:
        ValueError: Misaligned or empty, a page size that no memory here has, a source that is too short or lacking, or
            an unknown mode.
    """

    def __init__(
        self,
        start: int,
        length: int,
        source: Source | None,
        source_offset: int = 0,
        page_size: int = ...,
        *,
        mode: Literal["missing", "minor", "missing+minor", "missing+wp"] = "missing",
        on_remove: Literal["auto", "keep", "zero", "poison"] = "auto",
    ) -> None: ...
    @staticmethod
    def of(
        memory: Mapping | Buffer | npt.NDArray[Any],
        source: Source | None,
        source_offset: int = 0,
        *,
        mode: Literal["missing", "minor", "missing+minor", "missing+wp"] = "missing",
        on_remove: Literal["auto", "keep", "zero", "poison"] = "auto",
    ) -> Region:
        """Make one of memory of this process, and keep that mapped as long as it is needed.

        Args:
            memory: A ``Mapping``, or a writable, C-contiguous buffer that begins and ends at a page, as its array.
            source: As of a region.
            source_offset: As of a region.
            mode: As of a region.
            on_remove: As of a region.
        """
    @property
    def start(self) -> int:
        """Its address in the target."""

    @property
    def length(self) -> int:
        """In bytes."""

    @property
    def source(self) -> Source | None:
        """Where its bytes come from."""

    @property
    def source_offset(self) -> int:
        """Where in the source they begin, in bytes."""

    @property
    def page_size(self) -> int:
        """Of its memory, in bytes."""

    @property
    def mode(self) -> str:
        """Which faults are served."""

    @property
    def on_remove(self) -> str:
        """What becomes of missing pages that the target removes."""

@final
class EndingReport:
    @property
    def ending(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def began(self) -> float | None: ...
    @property
    def regions(self) -> int: ...
    @property
    def missing_pages(self) -> int: ...
    @property
    def absent_pages(self) -> int: ...
    @property
    def found_present(self) -> int: ...
    @property
    def verified(self) -> bool | None: ...
    @property
    def collapsed_bytes(self) -> int | None: ...
    @property
    def poisoned(self) -> list[tuple[int, int]]: ...

@final
class Manager:
    def __init__(
        self, *, handlers: int, fillers: int, placement: str, cpus: Sequence[int], watcher: Sequence[str]
    ) -> None: ...
    def add(
        self,
        uffd: Userfaultfd,
        regions: Sequence[Region],
        *,
        pid: int,
        ending: str,
        fault_around: int | None,
        verify: bool,
        keep_awake: bool,
        inline: bool,
        collapse: bool,
        install: str,
        registered: bool,
        present: str,
        beyond: str | None,
    ) -> Target: ...
    def add_memory(
        self, mapping: Mapping, uffd: Userfaultfd, regions: Sequence[Region], inline: bool
    ) -> ManagedMemory: ...

@final
class ManagedMemory:
    @property
    def target(self) -> Target: ...

@final
class Target:
    def fill(self) -> None: ...
    def registered(self) -> None: ...
    def wait(self, seconds: float) -> bool: ...
    def close(self, missing: str) -> EndingReport: ...
    def stop(self) -> Userfaultfd: ...
    def discard(self) -> None: ...
    def release_manager(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def children(self) -> list[Target]: ...
    def written(self, reset: bool) -> list[tuple[int, int]]: ...
    @property
    def id(self) -> int: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def user_mode_only(self) -> bool: ...
    @property
    def pages(self) -> int: ...
    @property
    def missing_pages(self) -> int: ...
    @property
    def serving(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
