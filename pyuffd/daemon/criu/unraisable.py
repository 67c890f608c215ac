"""What the functions of sources raise, told once for each cause: a dead page server fails for every page."""

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sys

log = logging.getLogger("pyuffd.criu")

_MOST = 64  # causes


class OncePerCause:
    """A hook for ``sys.unraisablehook``."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._telling = threading.Lock()

    def __call__(self, event: "sys.UnraisableHookArgs") -> None:
        """Tell it, if it was not told before."""
        what = f"{type(event.exc_value).__name__}: {event.exc_value}"
        with self._telling:
            if what in self._told or len(self._told) >= _MOST:
                return
            self._told.add(what)
        log.error("a read failed: %s", what)
