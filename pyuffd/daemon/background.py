"""How the daemon leaves the terminal, and tells that it listens."""

import os
import signal
from pathlib import Path

_STANDARD = (0, 1, 2)


class Background:
    """The parent waits until the daemon listens, or has failed. To be made before any thread is started."""

    def __init__(self) -> None:
        _open_missing()
        ready, self._tells = os.pipe()
        child = os.fork()
        if child:
            os.close(self._tells)
            _await(child, ready)
        os.close(ready)
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def ready(self) -> None:
        """Let the parent end, and keep no terminal open."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in _STANDARD:
            os.dup2(nothing, standard)
        os.close(nothing)
        os.write(self._tells, b"\0")
        os.close(self._tells)


def stopping_signals() -> tuple[int, ...]:
    """Return the signals that stop a daemon. One that was started to outlive its terminal (nohup) ignores its end."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) if ignored else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _open_missing() -> None:
    """Open what the shell has closed, or sockets and userfaultfds would get these numbers."""
    for standard in _STANDARD:
        try:
            os.fstat(standard)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _await(child: int, ready: int) -> None:
    if os.read(ready, 1):
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) or 1)


def tell_ready(pidfile: Path | None, status_fd: int | None) -> None:
    """Write the pid, and the byte that a script waits for.

    Raises:
        ValueError: The file, or the descriptor, cannot be written to.
    """
    if pidfile:
        try:
            pidfile.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise ValueError(f"--pidfile {pidfile} cannot be written: {error.strerror}") from None
    if status_fd is None:
        return
    try:
        os.write(status_fd, b"\0")
        if status_fd not in _STANDARD:
            os.close(status_fd)
    except OSError as error:
        raise ValueError(f"--status-fd {status_fd} cannot be written to: {error.strerror}") from None
