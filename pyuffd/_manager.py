"""Managers: the threads that serve targets."""

import contextlib
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from pyuffd import _core
from pyuffd._arguments import check_instance
from pyuffd._core import Region, Source, Userfaultfd
from pyuffd._inline import check_sigbus
from pyuffd._log import listener
from pyuffd._options import ServeOptions, for_engine, with_options
from pyuffd._take_over import await_next_manager, checked_sources, inherited
from pyuffd._target import Target

if TYPE_CHECKING:
    from typing_extensions import Unpack

Placement = Literal["auto", "adopt", "free"] | Sequence[int]


class _GuardProgram:
    """The guard, opened at the import: later this process may be another user, who cannot reach the file."""

    def __init__(self) -> None:
        self.path = Path(_core.__file__).with_name("pyuffd-guard")
        self._file: tuple[int, os.stat_result] | None = None
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._file = fd, os.fstat(fd)

    @property
    def fd(self) -> int:
        """The descriptor; -1 if there is none, or if a program that closes strangers' descriptors has closed it."""
        with contextlib.suppress(OSError):
            if self._file and os.path.samestat(os.fstat(self._file[0]), self._file[1]):
                return self._file[0]
        return -1


_GUARD = _GuardProgram()

_PLACEMENTS = "'auto', 'adopt', 'free', or a list of CPUs"


class Manager:
    """The threads that serve many targets: handlers and fillers.

    Used as a context manager, it fills and closes every open target when the block is left. The threads end when the
    manager is closed and the last target has ended.

    Args:
        handlers: How many threads serve faults. Each target is served by one of them: the thread with the fewest
            targets when the target is added.
        fillers: How many threads fill in the background.
        placement: See ``serve()``.
        guards: How many guards hold the targets in other processes (see ``ServeOptions.guard``), 1 or 2. With 2,
            missing pages read as zeros only if this process and both guards are killed at once.

    Raises:
        ValueError: ``handlers`` or ``fillers`` is 0, ``guards`` is not 1 or 2, this process cannot use one of the
            CPUs, or the placement is unknown.
    """

    def __init__(self, handlers: int = 2, fillers: int = 1, *, placement: Placement = "auto", guards: int = 1) -> None:
        if guards not in (1, 2):
            raise ValueError(f"guards is {guards!r}; it must be 1 or 2")
        self._core = make_core(handlers, fillers, placement, guards)
        self._targets: list[Target] = []
        self._closed = False

    @with_options
    def add(
        self, uffd: Userfaultfd, regions: Iterable[Region] | _core.Regions, **options: "Unpack[ServeOptions]"
    ) -> Target:
        """Serve a target.

        Args:
            uffd: The userfaultfd of the target, which owns it from now on; see ``serve()``.
            regions: The memory that is managed; see ``serve()``.
            **options: See ``ServeOptions``.

        Returns:
            The target.

        Raises:
            RuntimeError: The manager is closed.
            Exception: See ``serve()``.
        """
        if self._closed:
            raise RuntimeError("this manager is closed: make a new one")
        target = Target(_add(self._core, "Manager.add()", uffd, regions, options), owns_manager=False)
        self._targets = [other for other in self._targets if not other.ended]
        self._targets.append(target)
        return target

    @property
    def targets(self) -> list[Target]:
        """The targets that were added and have not ended, and those that were taken over."""
        return [target for target in self._targets if not target.ended]

    def take_over(
        self,
        address: "str | os.PathLike[str] | int",
        source: Source | Sequence[Source],
        *,
        timeout: float | None = None,
    ) -> list[Target]:
        """Serve the targets of a manager that has died, too.

        Args:
            address: See ``pyuffd.take_over()``.
            source: See ``pyuffd.take_over()``.
            timeout: See ``pyuffd.take_over()``.

        Returns:
            The targets.

        Raises:
            RuntimeError: This manager is closed.
            Exception: See ``pyuffd.take_over()``.
        """
        if self._closed:
            raise RuntimeError("this manager is closed: make a new one")
        sources = checked_sources(source)
        listener.begin()
        await_next_manager()
        with inherited(address, timeout) as (uffds, ledgers, completions):
            taken = self._core.take_over(uffds, ledgers, completions, sources)
            targets = [Target(core, owns_manager=False, is_child=core.pid is None) for core in taken]
        self._targets += targets
        return targets

    def start_guard(self) -> None:
        """Start the guard. Otherwise the first target of another process does that, which takes a millisecond."""
        self._core.start_guard()

    def close(self) -> None:
        """Fill and close every open target, and the fork children of each. Idempotent.

        Raises:
            Exception: The error of the first target that cannot be closed. The errors of other targets are in its notes
                (Python 3.11). All other targets are closed. A second call tries the remaining targets again.
        """
        self._closed = True
        errors = [error for target in self._targets for error in _close_family(target)]
        if errors:
            raise _first_with_notes(errors)
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

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        targets = [f"\n  {target!r}" for target in self._targets]
        return f"<pyuffd.Manager {state}, {len(targets)} targets{''.join(targets)}>"


def _close_family(target: Target) -> Iterator[Exception]:
    """Close a target and its fork children, and yield the errors that they raise."""
    try:
        target.__exit__(None, None, None)
    except Exception as error:
        yield error
    for child in target.children:
        yield from _close_family(child)


def _first_with_notes(errors: Sequence[Exception]) -> Exception:
    first, *others = errors
    add_note = getattr(first, "add_note", lambda _: None)  # Python 3.11
    for other in others:
        add_note(f"another target could not be closed: {type(other).__name__}: {other}")
    return first


@with_options
def serve(
    uffd: Userfaultfd,
    regions: Iterable[Region],
    *,
    fillers: int = 1,
    placement: Placement = "auto",
    **options: "Unpack[ServeOptions]",
) -> Target:
    """Serve the faults of one target, with a manager for this target only.

    Args:
        uffd: The userfaultfd of the target. The target owns it from now on. If this process opened the userfaultfd,
            pyuffd registers the regions. If ``handoff`` received it, the sender has registered them. With event
            features (``Feature.EVENTS``) the target can fork, and can move, drop and unmap its memory.
        regions: The memory that is managed; no two regions overlap. A received userfaultfd can have no region: all
            memory that its owner registers is then outside of the regions (see ``beyond``).
        fillers: How many threads fill in the background.
        placement: ``"auto"`` leaves the threads of the target alone, and keeps CPUs awake during bursts of faults if
            that pays. ``"adopt"`` binds the handler and every faulting thread of the target to one CPU, as long as that
            pays (see ``Stats.releases``). It restores their affinity masks at the ending, and also if this process is
            killed. It needs ``Feature.THREAD_ID``. ``"free"`` leaves all threads to the scheduler. A list of CPUs binds
            each handler, and then each filler, to one of the CPUs in turn.
        **options: See ``ServeOptions``.

    Returns:
        The target. Use it as a context manager, or close it.

    Raises:
        ValueError: Two regions overlap; a page is present and ``present`` is ``"refuse"``; ``registered`` is False
            although this process opened the userfaultfd; a source lies in managed memory; a page size does not fit;
            this process cannot use one of the CPUs; a ``CallableSource`` serves memory of this process; no process has
            the pid; the pid of another process's userfaultfd is missing; or the userfaultfd is closed or served.
        OSError: A region cannot be registered: it is not mapped (EINVAL), or another userfaultfd has it (EBUSY). A
            thread cannot be started (EAGAIN). The userfaultfd cannot be watched (ENOSPC). After an error the caller
            still owns the userfaultfd, and no region is registered.
        UnsupportedError: This kernel or this userfaultfd does not support the mode of a region or ``beyond="poison"``;
            or this user cannot read the target's pagemap, and ``present`` is ``"refuse"``.
    """
    return Target(_add(make_core(1, fillers, placement), "serve()", uffd, regions, options), owns_manager=True)


def _add(
    core: _core.Manager,
    function: str,
    uffd: Userfaultfd,
    regions: Iterable[Region] | _core.Regions,
    options: ServeOptions,
) -> _core.Target:
    settings = for_engine(function, options)
    check_instance("uffd", uffd, Userfaultfd)
    every = regions if isinstance(regions, _core.Regions) else _checked(regions)
    check_sigbus()
    listener.begin()
    if settings["guard"] == "manager":
        await_next_manager()
    return core.add(uffd, every, **settings)


def _checked(regions: Iterable[Region]) -> list[Region]:
    if not isinstance(regions, Iterable):
        raise TypeError(f"regions is {regions!r}; it must be a list of pyuffd.Region")
    every = list(regions)
    for number, region in enumerate(every):
        check_instance(f"regions[{number}]", region, Region)
    return every


def make_core(handlers: int, fillers: int, placement: Placement, guards: int = 1) -> _core.Manager:
    """Make the manager of the engine. The arguments are those of ``Manager``."""
    kind, cpus = _placement(placement)
    return _core.Manager(
        handlers=handlers,
        fillers=fillers,
        placement=kind,
        cpus=cpus,
        guard=str(_GUARD.path),
        guard_fd=_GUARD.fd,
        guards=guards,
    )


def _placement(placement: Placement) -> tuple[str, list[int]]:
    """Return the word of a placement, and the CPUs that the placement names."""
    if isinstance(placement, str):
        if placement not in ("auto", "adopt", "free"):
            raise ValueError(f"placement is {placement!r}; it must be {_PLACEMENTS}")
        return placement, []
    try:
        if isinstance(placement, bytes):
            raise TypeError
        cpus = [operator.index(cpu) for cpu in placement]
    except TypeError:
        raise TypeError(f"placement is {placement!r}; it must be {_PLACEMENTS}, which are integers") from None
    if not cpus:
        raise ValueError("placement is an empty list: name a CPU, or give 'auto', 'adopt' or 'free'")
    return "auto", cpus
