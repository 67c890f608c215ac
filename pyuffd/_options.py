"""How a target is served: the options that ``serve()`` and ``Manager.add()`` share."""

import difflib
import inspect
import os
import socket
from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar, get_args

from pyuffd._arguments import check_flag, check_instance, check_word

Ending = Literal["auto", "early-close", "unregister", "keep-open"]
Install = Literal["auto", "copy", "move"]
Present = Literal["keep", "refuse"]
Beyond = Literal["zero", "poison"]
Guard = Literal["poison", "manager"]
Trust = Literal["pagemap"]


class ServeOptions(TypedDict, total=False):
    """Options of ``serve()`` and ``Manager.add()``, by keyword.

    Attributes:
        pid: The process id of the target. None is this process.
        ending: How to let go of the target: ``"early-close"``, ``"unregister"`` or ``"keep-open"``. ``"auto"`` takes
            the early close if this kernel and this target make it safe, and unregister otherwise.
        fault_around: How many pages a fault installs; 1 installs the faulting page only. ``"auto"`` learns the number:
            up to 512 pages for faults that walk through memory, and 1 page for other faults.
        keep_awake: Whether /dev/cpu_dma_latency is held at 0 while the target is served. Idle CPUs then wake up sooner.
            This costs power, and needs write access to the device.
        inline: Whether the threads of this process resolve their own faults, in the handler of SIGBUS, so that no
            other thread is woken. The userfaultfd must have ``Feature.SIGBUS``. System calls on missing pages fail with
            EFAULT: call ``touch()`` on the memory first. pyuffd takes over the SIGBUS of the process. It passes a
            SIGBUS of other memory on to the previous handler.
        collapse: Whether the kernel is asked, after the ending, to put the target's memory into transparent huge pages
            (MADV_COLLAPSE, Linux 6.1). For another process this needs CAP_SYS_NICE.
            ``EndingReport.collapsed_bytes`` says how many bytes the kernel collapsed.
        install: How the bytes of ``FileSource(direct=True)`` get into memory. ``"auto"`` moves whole huge pages
            (UFFDIO_MOVE) if the memory is private anonymous memory of this process and the userfaultfd has
            ``Feature.MOVE``, and copies otherwise. ``"copy"`` always copies. ``"move"`` refuses memory into which no
            page can be moved. A huge page with a present page is always copied. ``Stats.moves`` counts the moves.
        registered: Whether the owner of a received userfaultfd has already registered the regions. With False the owner
            registers the regions later, and ``Target.registered()`` tells pyuffd when. Until then no page counts as
            absent, ``fill()`` is remembered, and pyuffd does not look at the target's maps.
        present: What pyuffd does about pages that are present before serving. The kernel reports no touch of such a
            page, and the page can differ from the source. ``"keep"`` leaves the pages, and counts them
            (``Stats.found_present``). ``"refuse"`` reads the target's pagemap when serving begins, which needs ptrace
            permission, and raises ValueError. A ``Mapping`` that is served as a whole is emptied first: pyuffd drops
            pages of zeros that the kernel has put there (transparent huge pages, mlockall).
        beyond: What pyuffd installs in registered memory outside all regions: ``"zero"`` installs zeros, and
            ``"poison"`` poisons the page (Linux 6.6). With event features, memory that has grown out of a region
            (mremap), or from which a region was moved away, always reads as zeros. None poisons if the kernel can, and
            otherwise the touching threads sleep. With event features, and with regions, None installs zeros in memory
            that was registered after serving began, because no event distinguishes such memory from memory that grew.
            Until ``Target.registered()`` is called, threads that touch memory outside all regions sleep.
        guard: What happens if this process is killed while it serves another process. ``"poison"`` has a small process,
            the guard, hold a second reference to the target. If this process dies, the guard poisons the missing pages
            (Linux 6.6), so that a touch is a SIGBUS; on older kernels the touching threads sleep. ``"manager"`` has
            the guard wait for the next manager (``take_over()``): until then threads that touch missing pages sleep.
            None has no guard: missing pages then read as zeros. Memory of this process needs no guard.
        completion: A connected socket on which the target waits until nothing is missing (``Handoff.completion``).
            pyuffd duplicates it.
        again: Whether another manager served the target of another process before, and its ledger is lost: the target
            connects again, and no guard hands it over (``Handoff.again``). Pages that are present then count as
            ``Stats.found_present``, and threads that slept wake up. If the userfaultfd has ``Feature.EVENT_REMOVE``,
            pyuffd refuses the target unless ``trust`` is given: the target may have dropped pages, which must read as
            zeros, and no longer differ from those that were never installed.
        trust: ``"pagemap"`` serves such a target all the same, and installs every page that is missing by the target's
            pagemap. Pages that the target had dropped get their old bytes back. ``EndingReport.trusted`` says so.
        verify: Whether pyuffd reads the target's smaps after the ending, to check that the memory is released.
    """

    pid: int | None
    ending: Ending
    fault_around: int | Literal["auto"]
    keep_awake: bool
    inline: bool
    collapse: bool
    install: Install
    registered: bool
    present: Present
    beyond: Beyond | None
    guard: Guard | None
    completion: socket.socket | None
    again: bool
    trust: Trust | None
    verify: bool


DEFAULTS: ServeOptions = {
    "pid": None,
    "ending": "auto",
    "fault_around": "auto",
    "keep_awake": False,
    "inline": False,
    "collapse": False,
    "install": "auto",
    "registered": True,
    "present": "keep",
    "beyond": None,
    "guard": "poison",
    "completion": None,
    "again": False,
    "trust": None,
    "verify": True,
}

_WORDS: dict[str, tuple[str, ...]] = {
    "ending": get_args(Ending),
    "install": get_args(Install),
    "present": get_args(Present),
    "beyond": get_args(Beyond),
    "guard": get_args(Guard),
    "trust": get_args(Trust),
}
_OR_NONE = ("beyond", "guard", "trust")
_IN_ARGUMENTS = "    **options: See ``ServeOptions``."

_Function = TypeVar("_Function", bound=Callable[..., Any])


def with_options(function: _Function) -> _Function:
    """Show the options in the signature and the docstring of a function."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    types = ServeOptions.__annotations__
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in DEFAULTS.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    if function.__doc__ and ServeOptions.__doc__:
        attributes = inspect.cleandoc(ServeOptions.__doc__).partition("Attributes:\n")[2]
        function.__doc__ = inspect.cleandoc(function.__doc__).replace(_IN_ARGUMENTS, attributes)
    return function


def for_engine(function: str, options: ServeOptions) -> dict[str, Any]:
    """Return all options in the form that the engine takes.

    Raises:
        TypeError: There is no such option, or its value has another type.
        ValueError: The value of an option has the right type, and is not permitted.
    """
    for name in options.keys() - DEFAULTS.keys():
        near = difflib.get_close_matches(name, DEFAULTS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(DEFAULTS)}"
        raise TypeError(f"{function} has no option {name!r}: {meant}")
    every: dict[str, Any] = {**DEFAULTS, **options}
    for name, value in every.items():
        _check(name, value)
    every["pid"] = os.getpid() if every["pid"] is None else every["pid"]
    every["completion"] = -1 if every["completion"] is None else every["completion"].fileno()
    every["fault_around"] = None if every["fault_around"] == "auto" else every["fault_around"]
    return every


def _check(name: str, value: Any) -> None:
    default = DEFAULTS[name]  # type: ignore[literal-required]
    if isinstance(default, bool):
        check_flag(name, value)
    elif name in _WORDS:
        if value is not None or name not in _OR_NONE:
            check_word(name, value, _WORDS[name])
    elif name == "completion":
        if value is not None:
            check_instance("completion", value, socket.socket)
    elif name == "pid" and value is not None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"pid is {value!r}; it must be a number, or None for this process")
        if not 0 < value < 1 << 31:
            raise ValueError(f"pid is {value}; give the pid of the target's process, or None for this process")
