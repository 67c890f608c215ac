"""What happens at the exit of the interpreter: missing pages are filled, and then the log is told to its end."""

import atexit
import os
import traceback
import weakref
from typing import TYPE_CHECKING

from pyuffd._log import listener

if TYPE_CHECKING:
    from pyuffd._target import Target

live: "weakref.WeakSet[Target]" = weakref.WeakSet()
# keep-open targets after close(): served until stop() or exit, whoever holds them.
kept_open: "set[Target]" = set()


def fill_all() -> None:
    """Fill what is missing: the exit closes every userfaultfd, and missing pages would read as zeros."""
    for target in list(live):
        # A lazy array's memory is this process's own and is served to its very end.
        if not target._owns_memory:
            _fill_family(target)


def _fill_family(target: "Target") -> None:
    if target._stopped is None and target._report is None:
        try:
            target.close(missing="fill")
        except Exception:
            traceback.print_exc()  # the others are filled all the same
    for child in target.children:
        _fill_family(child)


def _forget_in_child() -> None:
    """Forget targets, which are the parent's; the child's copies of their userfaultfds are closed already."""
    live.clear()
    kept_open.clear()


# What is registered last runs first.
atexit.register(listener.end)
atexit.register(fill_all)
os.register_at_fork(after_in_child=_forget_in_child)
