"""Which daemon serves, or has served, at a socket: a file beside the socket has its pid."""

import contextlib
import os
from pathlib import Path

from pyuffd._take_over import guard_path


def note(path: Path) -> None:
    """Note that this process serves at a socket."""
    _file(path).write_text(f"{os.getpid()}\n")


def forget(path: Path) -> None:
    """Note that nobody has left anything at a socket."""
    _file(path).unlink(missing_ok=True)


def left_by(path: Path) -> int | None:
    """Return the pid of the daemon that has ended at a socket, and whose guard waits for the next one; or None."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(_file(path).read_text())
        if guard_path(pid).exists():
            return pid
    return None


def _file(path: Path) -> Path:
    return path.with_name(path.name + ".pid")
