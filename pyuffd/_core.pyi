"""The extension module: userfaultfds, memory, sources, regions and the manager."""

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
    """This kernel does not support an operation, or does not permit it to this user. The message says what to change.

    Attributes:
        needs: The names of what would permit the operation, such as ``"Linux 6.6"``, ``"CAP_SYS_PTRACE"``,
            ``"/dev/userfaultfd"``, ``"vm.unprivileged_userfaultfd=1"``, ``"seccomp"`` (a filter that forbids the call)
            or ``"CONFIG_HUGETLBFS"``. One of them is enough. Empty if no change of the system helps.
    """

    needs: tuple[str, ...]

class MissingPagesError(RuntimeError):
    """Pages were missing when ``close(missing='raise')`` was called. The manager still serves the target.

    Attributes:
        missing_pages: The number of missing pages.
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
    """Return what is known of this kernel, without an experiment."""

def release_experiment(lost_wake_seconds: float) -> _ReleaseFinding:
    """Find out by experiment what this kernel does, and keep the result for this boot."""

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
def guard_listen(listener: int, seconds: int) -> None: ...
def _raise_system_error(error: int, text: str) -> None: ...

@final
class Fault:
    """A fault: a thread sleeps until its page is installed (uffd_msg, UFFD_EVENT_PAGEFAULT)."""

    @property
    def address(self) -> int:
        """The address of the access; page-aligned unless the userfaultfd has the feature EXACT_ADDRESS."""

    @property
    def flags(self) -> FaultFlag:
        """The kind of the access."""

    @property
    def thread(self) -> int:
        """The thread's id in the target's pid namespace; 0 without the feature THREAD_ID."""

@final
class RemapEvent:
    """The target moved memory (UFFD_EVENT_REMAP)."""

    @property
    def from_(self) -> int:
        """The old address of the memory."""

    @property
    def to(self) -> int:
        """The new address of the memory."""

    @property
    def length(self) -> int:
        """The length of the memory in bytes."""

@final
class RemoveEvent:
    """The target dropped pages (UFFD_EVENT_REMOVE)."""

    @property
    def start(self) -> int:
        """The first dropped address."""

    @property
    def end(self) -> int:
        """The first address after the dropped pages."""

@final
class UnmapEvent:
    """The target unmapped memory (UFFD_EVENT_UNMAP)."""

    @property
    def start(self) -> int:
        """The first unmapped address."""

    @property
    def end(self) -> int:
        """The first address after the unmapped memory."""

@final
class UnknownEvent:
    """An event that this version of pyuffd does not know."""

    @property
    def event(self) -> int:
        """The number of the event (UFFD_EVENT_x)."""

@final
class Userfaultfd:
    """An open userfaultfd, after UFFDIO_API. Each ioctl is a method (userfaultfd(2), ioctl_userfaultfd(2)).

    The descriptor is non-blocking and close-on-exec, and fork children close it at once. ``serve()`` and
    ``Manager.add()`` take it over. After that, and after ``close()``, every other call raises ValueError. A call that
    the kernel refuses raises OSError with the errno. Addresses and lengths are in bytes.

    Args:
        features: The ``Feature`` bits to ask for.
        user_mode_only: False opens /dev/userfaultfd, or calls userfaultfd(2) without it, and serves kernel accesses
            too. True needs no permission, but kernel accesses to missing pages fail with EFAULT. None takes False if
            this user has the permission, and True otherwise. The property ``user_mode_only`` tells which.

    Raises:
        UnsupportedError: The userfaultfd cannot be opened, or this kernel lacks a feature. The message names what to
            change.
    """

    def __init__(self, features: int = 0, user_mode_only: bool | None = None) -> None: ...
    @staticmethod
    def adopt(fd: int) -> Userfaultfd:
        """Take over a descriptor of a userfaultfd that another process opened and for which it registers memory.

        Raises:
            ValueError: The descriptor is not a userfaultfd, or its opener did not call UFFDIO_API. The descriptor is
                closed.
        """
    def fileno(self) -> int:
        """Return the descriptor, which this object owns."""

    def close(self) -> None:
        """Close the userfaultfd. The kernel releases registered memory when the last descriptor is closed, and missing
        pages then read as zeros.

        Raises:
            RuntimeError: Another thread is inside a call of this userfaultfd.
        """
    @property
    def closed(self) -> bool:
        """Whether the userfaultfd was closed, or is served."""

    @property
    def features(self) -> Feature:
        """The features that are enabled."""

    @property
    def user_mode_only(self) -> bool:
        """Whether kernel accesses to missing pages fail with EFAULT."""

    @property
    def registered_by_sender(self) -> bool:
        """Whether others register the memory: the userfaultfd was received or stopped, or came with a FORK event."""

    def waiting(self) -> tuple[int, int]:
        """Return the number of unread faults, and of all faults whose threads sleep (fdinfo: pending, total)."""
    def read(
        self, most: int = 64, timeout: float | None = None
    ) -> list[Fault | RemapEvent | RemoveEvent | UnmapEvent | UnknownEvent | Userfaultfd]:
        """Wait for the first message, and read messages. A FORK event is the child's Userfaultfd.

        Args:
            most: The most messages to read.
            timeout: Seconds to wait; None waits without a limit. Ctrl-C interrupts the wait.

        Returns:
            The messages; an empty list after the timeout.
        """
    def register(self, start: int, length: int, mode: int = ...) -> int:
        """UFFDIO_REGISTER, for missing faults by default; ``mode`` has ``RegisterMode`` bits.

        Returns:
            The ioctls that the range supports, as bits ``1 << _UFFDIO_x``.
        """
    def unregister(self, start: int, length: int) -> None:
        """UFFDIO_UNREGISTER. Call ``wake()`` afterwards, because UFFDIO_UNREGISTER can leave a thread asleep."""
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
            The number of installed bytes. It is less than ``length`` if the kernel stopped early. The other installing
            methods return the same.

        Raises:
            OSError: Nothing was installed. EEXIST: the page is present already; wake it. EAGAIN: try again later.
        """
    def zeropage(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_ZEROPAGE."""
    def writeprotect(self, start: int, length: int, protect: bool, *, wake: bool = True) -> None:
        """UFFDIO_WRITEPROTECT (Linux 5.7). With ``protect=True`` the kernel wakes no thread, and refuses
        ``wake=False``."""
    def scan_written(self, start: int, length: int, *, protect: bool = False, pid: int = 0) -> list[tuple[int, int]]:
        """PAGEMAP_SCAN (Linux 6.7): find the memory that was written. A userfaultfd with the feature WP_ASYNC must have
        registered the memory for write-protect faults. The kernel resolves these faults itself.

        Args:
            start: The address, page-aligned.
            length: The length in bytes.
            protect: Whether to write-protect the found pages again, in the same call.
            pid: The process that has the memory; 0 is this process.

        Returns:
            (start, length) of each written range in bytes, in the order of addresses.

        Raises:
            OSError: EPERM: the memory is not registered in this way. ENOTTY: the kernel is older than Linux 6.7.
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
        """UFFDIO_MOVE (Linux 6.8). The memory must be memory of this process."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

@final
class Mapping:
    """A range of zeroed, readable and writable memory that this object owns.

    Args:
        length: The length in bytes, rounded up to whole pages.
        kind: ``"anonymous"``, ``"memfd"`` or ``"hugetlb"``.
        shared: Map with MAP_SHARED instead of MAP_PRIVATE.

    Raises:
        OSError: There is not enough memory. For hugetlb the message tells how to reserve pages.
        UnsupportedError: This kernel has no hugetlb pages.
        ValueError: The length is 0 or too large.
    """

    def __init__(
        self,
        length: int,
        kind: Literal["anonymous", "memfd", "hugetlb"] = "anonymous",
        shared: bool = False,
    ) -> None: ...
    @property
    def address(self) -> int:
        """The address of the first byte."""

    @property
    def length(self) -> int:
        """The length in bytes."""

    @property
    def page_size(self) -> int:
        """The page size in bytes."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """A view of the bytes. The memory stays mapped as long as a view exists."""
    @property
    def closed(self) -> bool:
        """Whether the memory was unmapped."""

    def close(self) -> None:
        """Unmap the memory. Idempotent.

        Raises:
            BufferError: An array still views the memory.
            RuntimeError: The memory is served. Close the target first.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

class Source:
    """Where the bytes of pages come from. Use one of the subclasses."""

    @property
    def length(self) -> int:
        """The length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes from ``offset`` on.

        Raises:
            IndexError: The range ends after the end of the source.
            OSError: The file cannot be read.
            Exception: The error of the function of a ``CallableSource``.
        """

@final
class MemorySource(Source):
    """Bytes in memory of this process. The source keeps the buffer alive.

    Args:
        buffer: A C-contiguous buffer. Do not write to it while it is a source: pages can show old or new bytes.
    """

    # For numpy's stubs, an array is not a Buffer before Python 3.12.
    def __init__(self, buffer: Buffer | npt.NDArray[Any]) -> None: ...

@final
class FileSource(Source):
    """A regular file. If the file shrinks while it is a source, pages after its new end are poisoned.

    Args:
        path: The path of the file. The file is opened once, and can be renamed later.
        direct: Whether to bypass the page cache (O_DIRECT): for files that are not in the page cache and are read only
            once. In memory of this process huge pages are moved instead of copied if the userfaultfd has
            ``Feature.MOVE``.

    Raises:
        OSError: The file cannot be opened.
        UnsupportedError: The file system does not support O_DIRECT.
        ValueError: The file is empty, or is not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str], *, direct: bool = False) -> None: ...
    @property
    def path(self) -> str:
        """The path that was given."""

@final
class ZeroSource(Source):
    """Zeros, of any length."""

    def __init__(self) -> None: ...

@final
class CallableSource(Source):
    """A Python function that supplies pages of other processes.

    It cannot supply pages of this process, because a thread that waits for such a page can hold the GIL. Several
    threads of the manager call the function at a time, each when it gets the GIL. Faults of other sources do not wait
    for the function. Nor do they wait while the function fails.

    A call that raises, or that returns too few or too many bytes, is tried again after a pause. The pauses double from
    50 ms to 2 s. If the last try fails, too, pyuffd asks for the pages one by one, and poisons those that fail again.
    ``sys.unraisablehook`` gets the error of each of these, and ``Target.source_errors`` keeps the first of them.

    Args:
        read: Called with (offset, length) in bytes; returns a buffer of that length. With ``into`` it is called with
            (offset, memoryview), and writes as many bytes into the memoryview as that has. The memoryview is released
            when the function returns; a slice of it must not be used after that.
        length: The length of the whole source in bytes.
        deadline: Seconds after which the pages are poisoned, counted from the first call of the function for them;
            None waits without a limit.
        retries: How many times a call that failed is tried again; None: without a limit of their number.
        retry_for: Seconds after the first failure in which another try may begin; None: without a limit in time.
        block: How many bytes a fill asks for at once, from a multiple of it in the source on; 0 lets pyuffd choose. A
            fault asks for less.
        into: Whether the function writes into a memoryview, which saves a copy.

    Raises:
        TypeError: ``read`` is not callable, or a number is of another type.
        ValueError: The length is 0, or ``deadline`` or ``retry_for`` is not between 0 and 1e9 seconds.
    """

    def __init__(
        self,
        read: Callable[[int, int], Buffer] | Callable[[int, memoryview], object],
        length: int,
        *,
        deadline: float | None = None,
        retries: int | None = 2,
        retry_for: float | None = None,
        block: int = 0,
        into: bool = False,
    ) -> None: ...

class SharedImage(Source):
    """The bytes of a source, in one file in memory; see ``pyuffd.SharedImage``.

    Args:
        source: The source of the bytes.
        kind: ``"memfd"`` or ``"hugetlb"``.
    """

    def __init__(self, source: Source, *, kind: Literal["memfd", "hugetlb"] = "memfd") -> None: ...
    @property
    def page_size(self) -> int:
        """The page size of the image in bytes."""

    @property
    def missing_pages(self) -> int:
        """How many pages of the image are not filled yet."""

    def fileno(self) -> int:
        """Return the descriptor, which the image owns. Send it to a target, which maps it."""

    def map(self, offset: int = 0, length: int | None = None, *, shared: bool = False) -> Mapping:
        """Map the image, or whole pages of it, into this process.

        Raises:
            ValueError: Offset or length is not a multiple of the page size.
        """

    def fill(self) -> None:
        """Start to fill the image in the background. Returns at once."""

    def _wait(self, seconds: float) -> bool | None: ...

@final
class Region:
    """One range of a target's memory, with the source of its bytes.

    Args:
        start: The address in the target.
        length: The length in bytes.
        source: Where the bytes come from. None is for ``mode="minor"``, if the bytes are in the page cache already.
        source_offset: The offset of the first byte in the source.
        page_size: The page size of the memory: the base page size (4096 on x86-64), or that of a hugetlb pool.
        mode: Which faults are served (UFFDIO_REGISTER_MODE_x). ``"missing"``: faults on pages that are not present.
            ``"minor"`` (Linux 5.14): faults on pages that are in the page cache (memfd, shared anonymous, hugetlb) and
            not mapped. With only this mode, a hole of the file reads as zeros without a fault message.
            ``"missing+minor"``: both. Pages that are not in the page cache come from the source. ``"missing+wp"``
            (Linux 5.7): pages are installed write-protected, and ``Target.written()`` tells which were written.
        on_remove: How missing pages read after the target has removed them (userfaultfds with EVENT_REMOVE).
            ``"keep"``: they still come from the source, as after MADV_DONTNEED of shared memory. ``"zero"``: they read
            as zeros, as after MADV_REMOVE. ``"poison"``: a touch is a SIGBUS. ``"auto"``: zero for private memory, and
            poison for shared memory, because the kernel does not tell MADV_DONTNEED and MADV_REMOVE apart.

    Raises:
        ValueError: The region is empty or not page-aligned; no memory of this system has the page size; the source is
            too short or missing; or the mode is unknown.
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
        """Make a region of memory of this process. The memory stays mapped as long as the region needs it.

        Args:
            memory: A ``Mapping``, or a writable, C-contiguous buffer that begins and ends at a page boundary.
            source: See ``Region``.
            source_offset: See ``Region``.
            mode: See ``Region``.
            on_remove: See ``Region``.
        """
    @property
    def start(self) -> int:
        """The address in the target."""

    @property
    def length(self) -> int:
        """The length in bytes."""

    @property
    def source(self) -> Source | None:
        """Where the bytes come from."""

    @property
    def source_offset(self) -> int:
        """The offset of the first byte in the source."""

    @property
    def page_size(self) -> int:
        """The page size of the memory in bytes."""

    @property
    def mode(self) -> str:
        """Which faults pyuffd serves."""

    @property
    def on_remove(self) -> str:
        """How missing pages read after the target has removed them."""

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
    def trusted_pagemap(self) -> bool: ...
    @property
    def verified(self) -> bool | None: ...
    @property
    def collapsed_bytes(self) -> int | None: ...
    @property
    def poisoned(self) -> list[tuple[int, int]]: ...

@final
class Regions:
    """Many regions of another process, of ordinary pages.

    Region i begins at ``start[i]``, and has the bytes of ``sources[number[i]]`` from ``offset[i]`` on.
    """

    def __init__(
        self,
        start: npt.ArrayLike,
        length: npt.ArrayLike,
        offset: npt.ArrayLike,
        number: npt.ArrayLike,
        sources: Sequence[Source],
    ) -> None: ...
    def __len__(self) -> int: ...

@final
class Manager:
    def __init__(
        self,
        *,
        handlers: int,
        fillers: int,
        placement: str,
        cpus: Sequence[int],
        guard: str,
        guard_fd: int,
        guards: int,
    ) -> None: ...
    def add(
        self,
        uffd: Userfaultfd,
        regions: Sequence[Region] | Regions,
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
        guard: str | None,
        completion: int,
        again: bool,
        trust: str | None,
    ) -> Target: ...
    def start_guard(self) -> None: ...
    def take_over(
        self,
        uffds: Sequence[Userfaultfd],
        ledgers: Sequence[int],
        completions: Sequence[int],
        sources: Sequence[Source],
    ) -> list[Target]: ...
    def add_memory(
        self, mapping: Mapping, uffd: Userfaultfd, regions: Sequence[Region], inline: bool
    ) -> ManagedMemory: ...

@final
class ManagedMemory:
    @property
    def target(self) -> Target: ...

@final
class Target:
    def fill(self, when_idle: bool) -> None: ...
    def registered(self, check: bool) -> None: ...
    def wait(self, seconds: float) -> bool: ...
    def close(self, missing: str) -> EndingReport: ...
    def stop(self) -> Userfaultfd: ...
    def discard(self) -> None: ...
    def release_manager(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def children(self) -> list[Target]: ...
    def source_failures(self) -> list[tuple[str, int, int, int, BaseException | None]]: ...
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
