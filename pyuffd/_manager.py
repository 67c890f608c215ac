"""Managers: the threads that serve targets."""

import errno
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from pyuffd import _core, _watcher
from pyuffd._arguments import check_instance
from pyuffd._core import Region, Userfaultfd
from pyuffd._inline import check_sigbus
from pyuffd._log import listener
from pyuffd._options import ServeOptions, for_engine, with_options
from pyuffd._target import Target

if TYPE_CHECKING:
    from typing_extensions import Unpack

Placement = Literal["auto", "adopt", "free"] | Sequence[int]

_PLACEMENTS = "'auto', 'adopt', 'free', or a list of CPUs"


class Manager:
    """Handlers and fillers that serve many targets.

    Leaving its block closes every target that was not closed, filling what is missing. Its threads end when the last of
    the manager and its targets does.

    Args:
        handlers: Threads that serve faults; a target has one of them, the least busy when it is added.
        fillers: Threads that fill in the background.
        placement: See ``serve()``.

    Raises:
        ValueError: No handler, no filler, a CPU that this process may not use, or a placement that cannot be.
    """

    def __init__(self, handlers: int = 2, fillers: int = 1, *, placement: Placement = "auto") -> None:
        self._core = make_core(handlers, fillers, placement)
        self._targets: list[Target] = []
        self._closed = False

    @with_options
    def add(self, uffd: Userfaultfd, regions: Iterable[Region], **options: "Unpack[ServeOptions]") -> Target:
        """Serve a target from now on.

        Args:
            uffd: The target's userfaultfd, which belongs to the target from here on; see ``serve()``.
            regions: What is managed; see ``serve()``.
            **options: See ``ServeOptions``.

        Returns:
            The target.

        Raises:
            RuntimeError: The manager is closed.
            Exception: Those of ``serve()``.
        """
        if self._closed:
            raise RuntimeError("this manager is closed: make a new one")
        target = Target(_add(self._core, "Manager.add()", uffd, regions, options), owns_manager=False)
        self._targets = [other for other in self._targets if not other.ended]
        self._targets.append(target)
        return target

    def close(self) -> None:
        """Close every target that was not closed, and their fork children, filling what is missing. Idempotent.

        Raises:
            Exception: What the first target said that cannot be closed; what others said stands in its notes (Python
                3.11). All others are closed; to close again tries the rest.
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
    """Close a target and its fork children, whatever any of them raises; gives that."""
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
    """Serve the faults of one target with a manager of its own, from now on.

    Args:
        uffd: The target's userfaultfd, which belongs to the target from here on. One that this process opened has its
            regions registered; those of one received by ``handoff`` are registered already. With event features
            (``Feature.EVENTS``) what the target does to its memory is followed: it may fork, move, drop and unmap it.
        regions: What is managed; none may overlap another. A userfaultfd that was received may have none: then all
            memory that its owner registers is beyond them.
        fillers: Threads that fill in the background.
        placement: ``"auto"`` touches no thread of the target. ``"adopt"`` holds the handler on one CPU, and with it
            every thread of the target that faults, as long as that pays (``Stats``): a fault takes a fifth of the time
            then. Their affinity masks are given back at the ending, and if this process is killed. It needs
            ``Feature.THREAD_ID``. ``"free"`` leaves all to the scheduler. A list of CPUs holds the handler, and then
            the fillers, to one of them each, in turn.
        **options: See ``ServeOptions``.

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
    return Target(_add(make_core(1, fillers, placement), "serve()", uffd, regions, options), owns_manager=True)


def _add(
    core: _core.Manager, function: str, uffd: Userfaultfd, regions: Iterable[Region], options: ServeOptions
) -> _core.Target:
    settings = for_engine(function, options)
    check_instance("uffd", uffd, Userfaultfd)
    if not isinstance(regions, Iterable):
        raise TypeError(f"regions is {regions!r}; it must be a list of pyuffd.Region")
    every = list(regions)
    for number, region in enumerate(every):
        check_instance(f"regions[{number}]", region, Region)
    check_sigbus()
    listener.begin()
    return core.add(uffd, every, **settings)


def make_core(handlers: int, fillers: int, placement: Placement) -> _core.Manager:
    """Make the manager of the engine; the arguments are those of ``Manager``."""
    kind, cpus = _placement(placement)
    if kind == "adopt" and not sys.executable:
        raise _core.UnsupportedError(
            errno.ENOSYS,
            "placement 'adopt' runs a watcher with sys.executable, which is not set: give placement 'auto'",
        )
    watcher = [sys.executable, "-I", "-S", _watcher.__file__, _core.__file__] if kind == "adopt" else []
    return _core.Manager(handlers=handlers, fillers=fillers, placement=kind, cpus=cpus, watcher=watcher)


def _placement(placement: Placement) -> tuple[str, list[int]]:
    """Give its word, and the CPUs that it names."""
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
