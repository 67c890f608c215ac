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
        pid: The target's process; None is this one.
        ending: How to let go: ``"early-close"``, ``"unregister"``, ``"keep-open"``, or ``"auto"``, which is the early
            close where this kernel and this target make it safe, else unregister.
        fault_around: How many pages around a fault are installed with it, 1 for none; ``"auto"`` learns it: up to 512
            for faults that walk through memory, 1 for those that do not.
        keep_awake: Hold /dev/cpu_dma_latency at 0 as long as the target is served, so that idle CPUs wake up sooner; it
            costs power, and takes write access to that device.
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
    """Show the options in a function's signature and docstring, as if they were written there."""
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
    """Give all options as the engine takes them.

    Raises:
        TypeError: There is no such option, or it is of another type.
        ValueError: It is of that type, and no value of it.
    """
    for name in options.keys() - DEFAULTS.keys():
        near = difflib.get_close_matches(name, DEFAULTS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(DEFAULTS)}"
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
            raise ValueError(f"pid is {value}; give that of the target, or None for this process")
