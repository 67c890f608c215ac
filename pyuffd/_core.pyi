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
def watch_adoptions(process: int, ledger: int, done: int, ready: int) -> None: ...
def _raise_system_error(error: int, text: str) -> None: ...

@final
class Fault:
    """A fault (uffd_msg, UFFD_EVENT_PAGEFAULT). A thread sleeps until the fault is resolved."""

    @property
    def address(self) -> int:
        """The address of the access. It is page-aligned unless the userfaultfd has the feature EXACT_ADDRESS."""

    @property
    def flags(self) -> FaultFlag:
        """The kind of the access."""

    @property
    def thread(self) -> int:
        """The id of the thread in the target's pid namespace, or 0 without the feature THREAD_ID."""

@final
class RemapEvent:
    """The target moved memory (UFFD_EVENT_REMAP)."""

    @property
    def from_(self) -> int:
        """The old start address of the memory."""

    @property
    def to(self) -> int:
        """The new start address of the memory."""

    @property
    def length(self) -> int:
        """The length of the memory in bytes."""

@final
class RemoveEvent:
    """The target dropped pages (UFFD_EVENT_REMOVE)."""

    @property
    def start(self) -> int:
        """The first address of the dropped range."""

    @property
    def end(self) -> int:
        """The first address behind the dropped range."""

@final
class UnmapEvent:
    """The target unmapped memory (UFFD_EVENT_UNMAP)."""

    @property
    def start(self) -> int:
        """The first address of the unmapped range."""

    @property
    def end(self) -> int:
        """The first address behind the unmapped range."""

@final
class UnknownEvent:
    """An event that this version of pyuffd does not know."""

    @property
    def event(self) -> int:
        """The number of the event (UFFD_EVENT_x)."""

@final
class Userfaultfd:
    """A userfaultfd that is ready for use (UFFDIO_API is done), with a method for each ioctl.

    The man pages userfaultfd(2) and ioctl_userfaultfd(2) describe the ioctls. The descriptor is non-blocking and
    close-on-exec, and a fork child closes its copy at once. ``serve()`` and ``Manager.add()`` take the userfaultfd
    over. After that, and after ``close()``, every call raises ValueError. If the kernel refuses a call, the call raises
    OSError with the errno. All addresses and lengths are in bytes.

    Args:
        features: The ``Feature`` bits to ask for.
        user_mode_only: With False, the userfaultfd serves kernel accesses, too. pyuffd opens it by /dev/userfaultfd,
            or else by userfaultfd(2). True needs no permission, but kernel accesses to missing pages fail with EFAULT.
            None means False if this user has the permission, and True otherwise. The property ``user_mode_only`` has
            the result.

    Raises:
        UnsupportedError: The userfaultfd cannot be opened, or this kernel lacks a feature. The message says what to
            change.
    """

    def __init__(self, features: int = 0, user_mode_only: bool | None = None) -> None: ...
    @staticmethod
    def adopt(fd: int) -> Userfaultfd:
        """Take over a descriptor of a userfaultfd that another process opened and for which it registers memory.

        Raises:
            ValueError: The descriptor is not a userfaultfd, or the process that opened it did not call UFFDIO_API. The
                descriptor is closed.
        """
    def fileno(self) -> int:
        """Return the descriptor. It belongs to this object: do not close it."""

    def close(self) -> None:
        """Close the userfaultfd. When its last descriptor is closed, the kernel releases the memory that is still
        registered. Missing pages of that memory then read as zeros.

        Raises:
            RuntimeError: Another thread is inside a call of this userfaultfd.
        """
    @property
    def closed(self) -> bool:
        """Whether the userfaultfd was closed, or was taken over by a target."""

    @property
    def features(self) -> Feature:
        """The enabled features."""

    @property
    def user_mode_only(self) -> bool:
        """Whether kernel accesses to missing pages fail with EFAULT."""

    @property
    def registered_by_sender(self) -> bool:
        """Whether another process opened the userfaultfd and registers its memory."""

    def waiting(self) -> tuple[int, int]:
        """Return the number of faults that nobody has read yet, and the number of all faults whose threads sleep
        (``pending`` and ``total`` of fdinfo)."""
    def read(
        self, most: int = 64, timeout: float | None = None
    ) -> list[Fault | RemapEvent | RemoveEvent | UnmapEvent | UnknownEvent | Userfaultfd]:
        """Wait for a message, and read all messages that are there. A FORK event is read as the child's Userfaultfd.

        Args:
            most: The largest number of messages to read.
            timeout: Seconds to wait. None waits without end. Ctrl-C interrupts the wait.

        Returns:
            The messages. The list is empty on timeout.
        """
    def register(self, start: int, length: int, mode: int = ...) -> int:
        """UFFDIO_REGISTER.

        Args:
            start: The first address.
            length: The length in bytes.
            mode: ``RegisterMode`` bits: which faults to serve. The default is missing faults.

        Returns:
            The ioctls that the kernel permits on the range, as bits ``1 << _UFFDIO_x``.
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
            The number of installed bytes. It is less than ``length`` if the kernel stopped early. ``zeropage()``,
            ``continue_()``, ``poison()`` and ``move()`` return the number of bytes in the same way.

        Raises:
            OSError: Nothing was installed. EEXIST: the first page is present already; wake its threads by ``wake()``.
                EAGAIN: try again later.
        """
    def zeropage(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_ZEROPAGE."""
    def writeprotect(self, start: int, length: int, protect: bool, *, wake: bool = True) -> None:
        """UFFDIO_WRITEPROTECT (Linux 5.7). With ``protect=True`` the kernel wakes no thread, and refuses
        ``wake=False``."""
    def scan_written(self, start: int, length: int, *, protect: bool = False, pid: int = 0) -> list[tuple[int, int]]:
        """PAGEMAP_SCAN (Linux 6.7): find the pages that were written to.

        A userfaultfd with the feature WP_ASYNC must have registered the memory for write-protect faults. The kernel
        resolves these faults itself.

        Args:
            start: The first address, page-aligned.
            length: The length in bytes.
            protect: Write-protect the found pages again, in the same step.
            pid: The process that has the memory. 0 is this process.

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
    """A range of readable and writable memory that this object owns. All pages are zeros at first.

    Args:
        length: The length in bytes. pyuffd rounds it up to whole pages.
        kind: ``"anonymous"``, ``"memfd"`` or ``"hugetlb"``.
        shared: Map with MAP_SHARED instead of MAP_PRIVATE.

    Raises:
        OSError: There is not enough memory. For hugetlb, the message says how to reserve pages.
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
        """The bytes of the mapping as an array. The memory stays mapped while an array of it exists."""
    @property
    def closed(self) -> bool:
        """Whether the memory was unmapped by ``close()``."""

    def close(self) -> None:
        """Unmap the memory. Further calls do nothing.

        Raises:
            BufferError: Arrays of this mapping still exist.
            RuntimeError: The mapping is served. Close its target first.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

class Source:
    """The base class of all sources. A source supplies the bytes of pages."""

    @property
    def length(self) -> int:
        """The length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes from ``offset`` on.

        Raises:
            IndexError: The range ends behind the end of the source.
        """

@final
class MemorySource(Source):
    """The bytes of a buffer of this process. The source keeps the buffer alive.

    Args:
        buffer: A C-contiguous buffer. If somebody writes to the buffer later, a page can have the old or the new bytes.
    """

    # For numpy's stubs, an array is not a Buffer before Python 3.12.
    def __init__(self, buffer: Buffer | npt.NDArray[Any]) -> None: ...

@final
class FileSource(Source):
    """The bytes of a regular file. If the file shrinks, pyuffd poisons the missing whole pages behind its new end.

    Args:
        path: The path of the file. pyuffd opens the file once, so the file can be renamed later.
        direct: Read the file past the page cache (O_DIRECT), instead of mapping it. Use this for files that are not in
            the page cache and that nobody will read again. If the userfaultfd was opened with ``Feature.MOVE``, pyuffd
            moves whole huge pages into private memory of this process.

    Raises:
        OSError: The file cannot be opened.
        UnsupportedError: The file system does not support O_DIRECT.
        ValueError: The file is empty, or is not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str], *, direct: bool = False) -> None: ...
    @property
    def path(self) -> str:
        """The path as the caller gave it. The file might have another path now."""

@final
class ZeroSource(Source):
    """Zeros. This source has no end."""

    def __init__(self) -> None: ...

@final
class CallableSource(Source):
    """A Python function that supplies the pages of other processes.

    The function cannot supply pages of this process, because a thread that waits for such a page can hold the GIL.
    Threads of the manager call the function, several at the same time, each when it gets the GIL. No other fault waits
    for the function. If the function raises, or returns a wrong number of bytes, pyuffd poisons the pages and calls
    ``sys.unraisablehook`` with the exception.

    Args:
        read: The function. pyuffd calls it with (offset, length) in bytes. It returns a buffer of that length.
        length: The length of the whole source in bytes.
        deadline: The longest time, in seconds, that pages wait for their bytes. The time begins with a fault, or with
            the call of a fill. After this time pyuffd poisons the pages. None waits without end.

    Raises:
        TypeError: read is not callable.
        ValueError: The deadline is not positive.
    """

    def __init__(self, read: Callable[[int, int], Buffer], length: int, *, deadline: float | None = None) -> None: ...

class SharedImage(Source):
    """The bytes of a source in one file in memory: see ``pyuffd.SharedImage``.

    Args:
        source: The source of the bytes.
        kind: ``"memfd"`` or ``"hugetlb"``.
    """

    def __init__(self, source: Source, *, kind: Literal["memfd", "hugetlb"] = "memfd") -> None: ...
    @property
    def page_size(self) -> int:
        """The page size of the image's memory in bytes."""

    @property
    def missing_pages(self) -> int:
        """The number of pages that were not filled yet."""

    def fileno(self) -> int:
        """Return the descriptor of the file. Send it to a target, so that the target can map it. It belongs to this
        object: do not close it."""

    def map(self, offset: int = 0, length: int | None = None, *, shared: bool = False) -> Mapping:
        """Map the image, or whole pages of it, into this process.

        Args:
            offset: The offset of the first byte in the image.
            length: The length in bytes. None maps up to the end of the image.
            shared: Map with MAP_SHARED instead of MAP_PRIVATE.

        Raises:
            ValueError: ``offset`` or ``length`` is not a multiple of the page size, or lies outside the image.
        """

    def fill(self) -> None:
        """Start to fill the image in the background, and return at once."""

    def _wait(self, seconds: float) -> bool | None: ...

@final
class Region:
    """One range of a target's memory, with the source of its bytes.

    Args:
        start: The address of the first byte in the target.
        length: The length in bytes.
        source: The source of the bytes. None is possible with ``mode="minor"``, if all pages are in the page cache.
        source_offset: The offset, in the source, of the region's first byte.
        page_size: The page size of the memory in bytes: that of this system (4096 on x86-64), or of a hugetlb pool.
        mode: Which faults pyuffd serves (UFFDIO_REGISTER_MODE_x). ``"missing"``: faults on pages that are not present.
            ``"minor"`` (Linux 5.13): faults on pages that are in the page cache (memfd, shared anonymous memory,
            hugetlb) and not mapped. With ``"minor"``, a page that is not in the page cache reads as zeros, without a
            fault message. ``"missing+minor"``: both kinds of faults. Pages that are not in the page cache come from
            the source. ``"missing+wp"`` (Linux 5.7): faults on pages that are not present. pyuffd installs every page
            write-protected, and records the first write to it: see ``Target.written()``.
        on_remove: What a missing page contains after the target has removed it (userfaultfds with EVENT_REMOVE).
            ``"keep"``: the source's bytes (right after MADV_DONTNEED of shared memory). ``"zero"``: zeros (right after
            MADV_REMOVE). ``"poison"``: nothing, and a touch of the page is SIGBUS. ``"auto"`` is ``"zero"`` for private
            memory. For shared memory it is ``"poison"``, because the kernel does not say which of the two calls it was.

    Raises:
        ValueError: The range is empty or not aligned to pages, no memory has this page size, the source is None or too
            short, or the mode is unknown.
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
        """Make a region of memory of this process. The memory stays mapped as long as the region is needed.

        Args:
            memory: A ``Mapping``, or a writable C-contiguous buffer that begins and ends at a page boundary (the array
                of a ``Mapping``, for example).
            source: See ``Region``.
            source_offset: See ``Region``.
            mode: See ``Region``.
            on_remove: See ``Region``.
        """
    @property
    def start(self) -> int:
        """The address of the first byte in the target."""

    @property
    def length(self) -> int:
        """The length in bytes."""

    @property
    def source(self) -> Source | None:
        """The source of the bytes."""

    @property
    def source_offset(self) -> int:
        """The offset, in the source, of the region's first byte."""

    @property
    def page_size(self) -> int:
        """The page size of the memory in bytes."""

    @property
    def mode(self) -> str:
        """Which faults pyuffd serves."""

    @property
    def on_remove(self) -> str:
        """What a missing page contains after the target has removed it."""

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
