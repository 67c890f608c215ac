"""Managers: the threads that serve targets."""

import errno
import operator
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal

from pyuffd import _core, _watcher
from pyuffd._core import Region, Userfaultfd
from pyuffd._inline import check_sigbus
from pyuffd._target import Target

Ending = Literal["auto", "early-close", "unregister", "keep-open"]
Install = Literal["auto", "copy", "move"]
Placement = Literal["auto", "adopt", "free"] | Sequence[int]
Present = Literal["keep", "refuse"]
Beyond = Literal["zero", "poison"]

_PLACEMENTS = "'auto', 'adopt', 'free', or a list of CPUs"


class Manager:
    """Handlers and fillers that serve many targets.

    Leaving its block closes every target that was not closed, filling what is missing. Its threads end when the last of
    the manager and its targets does.

    Args:
        handlers: Threads that serve faults; a target has one of them, the least busy when it is added.
        fillers: Threads that fill in the background.
        cpus: Holds handlers, and then fillers, to one of these CPUs each, in turn; None leaves them free.
        placement: See ``serve()``.

    Raises:
        ValueError: No handler, no filler, a CPU that this process may not use, or a placement that cannot be.
    """

    def __init__(
        self,
        handlers: int = 2,
        fillers: int = 1,
        cpus: Sequence[int] | None = None,
        *,
        placement: Placement = "auto",
    ) -> None:
        self._core = make_core(handlers, fillers, placement, cpus)
        self._targets: list[Target] = []
        self._closed = False

    def add(
        self,
        uffd: Userfaultfd,
        regions: Iterable[Region],
        *,
        pid: int | None = None,
        ending: Ending = "auto",
        fault_around: int | Literal["auto"] = "auto",
        idle: Literal["awake"] | None = None,
        inline: bool = False,
        collapse: bool = False,
        install: Install = "auto",
        registered: bool = True,
        present: Present = "keep",
        beyond: Beyond | None = None,
        verify: bool = True,
    ) -> Target:
        """Serve a target from now on; see ``serve()``.

        Raises:
            RuntimeError: The manager is closed.
        """
        if self._closed:
            raise RuntimeError("this manager is closed: make a new one")
        core = add_target(
            self._core,
            uffd,
            regions,
            pid,
            ending,
            fault_around,
            idle,
            verify,
            inline=inline,
            collapse=collapse,
            install=install,
            registered=registered,
            present=present,
            beyond=beyond,
        )
        target = Target(core, owns_manager=False)
        self._targets = [other for other in self._targets if not other.ended]
        self._targets.append(target)
        return target

    def close(self) -> None:
        """Close every target that was not closed, and their fork children, filling what is missing. Idempotent.

        Raises:
            Exception: What the first target said that cannot be closed. All others are closed; to close again tries the
                rest.
        """
        self._closed = True
        errors = [error for target in self._targets for error in _close_family(target)]
        if errors:
            raise errors[0]
        self._targets.clear()

    def __enter__(self) -> "Manager":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _close_family(target: Target) -> Iterator[Exception]:
    """Close a target and its fork children, whatever any of them raises; gives that."""
    try:
        target.__exit__(None, None, None)
    except Exception as error:
        yield error
    for child in target.children:
        yield from _close_family(child)


def serve(
    uffd: Userfaultfd,
    regions: Iterable[Region],
    *,
    pid: int | None = None,
    ending: Ending = "auto",
    fault_around: int | Literal["auto"] = "auto",
    fillers: int = 1,
    cpus: Sequence[int] | None = None,
    placement: Placement = "auto",
    idle: Literal["awake"] | None = None,
    inline: bool = False,
    collapse: bool = False,
    install: Install = "auto",
    registered: bool = True,
    present: Present = "keep",
    beyond: Beyond | None = None,
    verify: bool = True,
) -> Target:
    """Serve the faults of one target with a manager of its own, from now on.

    Args:
        uffd: The target's userfaultfd, which belongs to the target from here on. One that this process opened has its
            regions registered; those of one received by ``handoff`` are registered already. With event features
            (``Feature.EVENTS``) what the target does to its memory is followed: it may fork, move, drop and unmap it.
        regions: What is managed; none may overlap another. A userfaultfd that was received may have none: then all
            memory that its owner registers is beyond them.
        pid: The target's process; None is this one.
        ending: How to let go: ``"early-close"``, ``"unregister"``, ``"keep-open"``, or ``"auto"``, which is the early
            close where this kernel and this target make it safe, else unregister.
        fault_around: How many pages around a fault are installed with it, 1 for none; ``"auto"`` learns it: up to 512
            for faults that walk through memory, 1 for those that do not.
        fillers: Threads that fill in the background.
        cpus: Holds the handler, and then the fillers, to one of these CPUs each, in turn; None leaves them free.
        placement: ``"auto"`` touches no thread of the target. ``"adopt"`` holds the handler on one CPU, and with it
            every thread of the target that faults, as long as that pays (``Stats``): a fault takes a fifth of the time
            then. Their affinity masks are given back at the ending, and if this process is killed. It needs
            ``Feature.THREAD_ID``. ``"free"`` leaves all to the scheduler; CPUs hold the handlers to them in turn.
        idle: ``"awake"`` holds /dev/cpu_dma_latency at 0 as long as the target is served, so that idle CPUs wake up
            sooner; it costs power.
        inline: The threads of this process resolve their faults themselves, in the handler of a SIGBUS, so that no
            other thread is woken; for a userfaultfd opened with ``Feature.SIGBUS``. System calls on missing pages fail
            with EFAULT: ``touch()`` the memory before. The process's SIGBUS is taken over; what is no fault of ours is
            passed on to whoever had it before.
        collapse: After the ending, outside its time, ask the kernel to put the target's memory into transparent huge
            pages (MADV_COLLAPSE, Linux 6.1); of another process that takes CAP_SYS_NICE.
            ``EndingReport.collapsed_bytes`` says how much it did.
        install: How bytes that were read into a buffer (``FileSource(direct=True)``) get into memory: by UFFDIO_MOVE of
            whole huge pages, where the memory is this process's, private and anonymous and the userfaultfd was opened
            with ``Feature.MOVE``, and else by copying (``"auto"``); ``"copy"`` forces it, and ``"move"`` refuses memory
            that cannot be moved into. A huge page of which some page is there already is copied all the same.
            ``Stats.moves`` counts.
        registered: Whether the owner of a received userfaultfd has registered the regions by now. With False the
            owner registers them later: until ``Target.registered()`` is called nothing counts as installed or absent
            because it is not registered, ``fill()`` is remembered, and the target's maps are not looked at.
        present: What becomes of pages that are present although nobody of ours installed them, so that no touch of
            them is told and their bytes are not the source's. ``"keep"`` leaves them, and counts them
            (``Stats.found_present``); ``"refuse"`` looks at the target's pagemap when serving begins (ptrace
            permission) and raises ValueError. A ``Mapping`` that is served whole is proved empty: pages of zeros that
            the kernel has put there (transparent huge pages, mlockall) are dropped.
        beyond: What registered memory outside all regions reads as: ``"zero"``, or ``"poison"``: its touchers get
            SIGBUS (Linux 6.6), unless it lies in one mapping with a region, and so has grown out of that, or a region
            was moved away from there. None poisons where the kernel can, and elsewhere its touchers sleep; but with
            event features and regions what is registered after serving began reads as zeros, since no event tells it
            from memory that grew. Until ``registered()`` is called, touchers of such memory sleep.
        verify: Look at the target's smaps after the ending, outside its time, whether it is really released.

    Returns:
        The target; use it as a context manager, or close it.

    Raises:
        ValueError: Regions that overlap, pages that are present where ``present`` is ``"refuse"``, ``registered=False``
            for a userfaultfd that this process opened, a source in managed memory, a page size that does not fit, a
            CPU that this process may not use, a CallableSource for memory of this process, a pid of no process, one
            left out for a userfaultfd of another process, or a userfaultfd that is closed or taken.
        OSError: A region cannot be registered: not mapped (EINVAL) or registered elsewhere (EBUSY); a thread cannot be
            started (EAGAIN); the userfaultfd cannot be watched (ENOSPC). It is the caller's still, and nothing is
            registered.
        UnsupportedError: This kernel, or this userfaultfd, cannot do the mode of a region, or ``beyond="poison"``; or
            ``present="refuse"`` may not look at the target's pagemap.
    """
    manager = make_core(1, fillers, placement, cpus)
    core = add_target(
        manager,
        uffd,
        regions,
        pid,
        ending,
        fault_around,
        idle,
        verify,
        inline=inline,
        collapse=collapse,
        install=install,
        registered=registered,
        present=present,
        beyond=beyond,
    )
    return Target(core, owns_manager=True)


def make_core(handlers: int, fillers: int, placement: Placement, cpus: Sequence[int] | None) -> _core.Manager:
    """Make the manager of the engine; the arguments are those of ``Manager``."""
    if isinstance(placement, str):
        if placement == "free" and cpus:
            raise ValueError(
                f"placement 'free' leaves threads to the scheduler, but cpus is {cpus!r}: give one of them"
            )
        if placement not in ("auto", "adopt", "free"):
            raise ValueError(f"placement is {placement!r}; it must be {_PLACEMENTS}")
        kind: str = placement
        chosen = list(cpus or ())
    else:
        if cpus:
            raise ValueError(f"placement is {placement!r} and cpus is {cpus!r}: give one of them")
        try:
            if isinstance(placement, bytes):
                raise TypeError
            kind, chosen = "fixed", [operator.index(cpu) for cpu in placement]
        except TypeError:
            raise TypeError(f"placement is {placement!r}; it must be {_PLACEMENTS}, which are integers") from None
        if not chosen:
            raise ValueError("placement is an empty list: name a CPU, or give 'auto', 'adopt' or 'free'")
    if kind == "adopt" and not sys.executable:
        raise _core.UnsupportedError(
            errno.ENOSYS,
            "placement 'adopt' runs a watcher with sys.executable, which is not set: give placement 'auto'",
        )
    watcher = [sys.executable, "-I", "-S", _watcher.__file__, _core.__file__] if kind == "adopt" else []
    return _core.Manager(handlers=handlers, fillers=fillers, placement=kind, cpus=chosen, watcher=watcher)


def add_target(
    manager: _core.Manager,
    uffd: Userfaultfd,
    regions: Iterable[Region],
    pid: int | None,
    ending: Ending,
    fault_around: int | Literal["auto"],
    idle: Literal["awake"] | None,
    verify: bool,
    *,
    inline: bool = False,
    collapse: bool = False,
    install: Install = "auto",
    registered: bool = True,
    present: Present = "keep",
    beyond: Beyond | None = None,
) -> _core.Target:
    """Serve a target with this manager; the arguments are those of ``serve()``."""
    if pid is not None and operator.index(pid) <= 0:
        raise ValueError(f"pid is {pid}; give that of the target, or None for this process")
    check_sigbus()
    if idle not in ("awake", None):
        raise ValueError(f"idle is {idle!r}; it must be 'awake' or None")
    return manager.add(
        uffd,
        list(regions),
        pid=os.getpid() if pid is None else pid,
        ending=ending,
        fault_around=None if fault_around == "auto" else fault_around,
        verify=verify,
        awake=idle == "awake",
        inline=inline,
        collapse=collapse,
        install=install,
        registered=registered,
        present=present,
        beyond=beyond,
    )
