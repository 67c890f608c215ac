"""The exit of the interpreter: pyuffd fills missing pages, and then writes the rest of the log."""

import atexit
import os
import traceback
import weakref
from typing import TYPE_CHECKING

from pyuffd._log import listener

if TYPE_CHECKING:
    from pyuffd._target import Target

live: "weakref.WeakSet[Target]" = weakref.WeakSet()
# keep-open targets after close(): they are served until stop() or exit, although no user holds them.
kept_open: "set[Target]" = set()


def fill_all() -> None:
    """Fill all missing pages. They would read as zeros, because the exit closes every userfaultfd."""
    for target in list(live):
        # The memory of a lazy array is memory of this process. It is served until the process ends.
        if not target._owns_memory:
            _fill_family(target)


def _fill_family(target: "Target") -> None:
    if target._stopped is None and target._report is None:
        try:
            target.close(missing="fill")
        except Exception:
            traceback.print_exc()  # the other targets are filled, too
    for child in target.children:
        _fill_family(child)


def _forget_in_child() -> None:
    """Forget the targets of the parent. The child has already closed its copies of their userfaultfds."""
    live.clear()
    kept_open.clear()


# The function that is registered last runs first.
atexit.register(listener.end)
atexit.register(fill_all)
os.register_at_fork(after_in_child=_forget_in_child)
