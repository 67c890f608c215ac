"""How a target is served: the options that ``serve()`` and ``Manager.add()`` share."""

import difflib
import inspect
import os
from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar, get_args

from pyuffd._arguments import check_flag, check_word

Ending = Literal["auto", "early-close", "unregister", "keep-open"]
Install = Literal["auto", "copy", "move"]
Present = Literal["keep", "refuse"]
Beyond = Literal["zero", "poison"]


class ServeOptions(TypedDict, total=False):
    """Options of ``serve()`` and ``Manager.add()``, by keyword.

    Attributes:
        pid: The process that has the target's memory. None is this process.
        ending: How to let go of the target: ``"early-close"``, ``"unregister"``, ``"keep-open"`` or ``"auto"``.
            ``"auto"`` is the early close if it is safe on this kernel and for this target, and unregister otherwise.
        fault_around: How many pages pyuffd installs at a fault, the faulting page included. ``"auto"`` learns the
            number: up to 512 while faults walk through memory, and 1 for other faults.
        keep_awake: Hold /dev/cpu_dma_latency at 0 while the target is served. Idle CPUs then wake up sooner. This
            costs power, and needs write access to the device.
        inline: The threads of this process resolve their own faults, in the signal handler of SIGBUS. No other thread
            has to be woken. The userfaultfd must have ``Feature.SIGBUS``. System calls on missing pages fail with
            EFAULT: call ``touch()`` on the memory first. pyuffd takes over SIGBUS for the process, and passes on each
            SIGBUS that is not a fault of its own to the signal handler that was installed before.
        collapse: After the ending, ask the kernel to put the target's memory into transparent huge pages
            (MADV_COLLAPSE, Linux 6.1). This needs CAP_SYS_NICE for another process. The time of the ending does not
            include this step. ``EndingReport.collapsed_bytes`` has the result.
        install: How pyuffd installs bytes that it has read into a buffer (``FileSource(direct=True)``). ``"auto"``
            moves whole huge pages (UFFDIO_MOVE) into private anonymous memory of this process if the userfaultfd has
            ``Feature.MOVE``, and copies otherwise. ``"copy"`` always copies. ``"move"`` refuses memory into which the
            kernel cannot move pages. If some pages of a huge page are present already, pyuffd copies the others.
            ``Stats.moves`` counts the moves.
        registered: Whether the owner of a received userfaultfd has already registered the regions. Pass False if the
            owner registers them later. Until you call ``Target.registered()``, pyuffd counts no page as installed, and
            no page as absent because it is not registered. pyuffd does not read the target's maps before this call, and
            a ``fill()`` begins only with it.
        present: What to do about pages that are present although pyuffd did not install them. A touch of such a page is
            no fault, and the page does not have the source's bytes. ``"keep"`` keeps these pages, and counts those that
            pyuffd finds (``Stats.found_present``). ``"refuse"`` raises ValueError if the target's pagemap shows such
            pages when serving begins (ptrace permission). If the regions cover a whole ``Mapping``, pyuffd first drops
            pages of zeros that the kernel has put there (transparent huge pages, mlockall).
        beyond: What happens when a thread touches registered memory outside all regions. ``"zero"``: the memory reads
            as zeros. ``"poison"``: the thread gets SIGBUS (Linux 6.6), except where a region has grown (the memory is
            in one mapping with the region) and where a region was before it was moved. Such memory reads as zeros.
            None: the thread gets SIGBUS if the kernel supports poison, and sleeps otherwise. With None, event features
            and regions, memory that is registered after serving began reads as zeros, because no event distinguishes it
            from memory that has grown. Until you call ``Target.registered()``, a thread that touches memory outside all
            regions sleeps.
        verify: After the ending, read the target's smaps, and check that the memory is released. The time of the ending
            does not include this step.
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
    "verify": True,
}

_WORDS: dict[str, tuple[str, ...]] = {
    "ending": get_args(Ending),
    "install": get_args(Install),
    "present": get_args(Present),
    "beyond": get_args(Beyond),
}
_IN_ARGUMENTS = "    **options: See ``ServeOptions``."

_Function = TypeVar("_Function", bound=Callable[..., Any])


def with_options(function: _Function) -> _Function:
    """Show the options in the signature and the docstring of a function, as if the function named them itself."""
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
    every["fault_around"] = None if every["fault_around"] == "auto" else every["fault_around"]
    return every


def _check(name: str, value: Any) -> None:
    default = DEFAULTS[name]  # type: ignore[literal-required]
    if isinstance(default, bool):
        check_flag(name, value)
    elif name in _WORDS:
        if value is not None or default is not None:
            check_word(name, value, _WORDS[name])
    elif name == "pid" and value is not None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"pid is {value!r}; it must be a number, or None for this process")
        if not 0 < value < 1 << 31:
            raise ValueError(f"pid is {value}; give the pid of the target's process, or None for this process")
