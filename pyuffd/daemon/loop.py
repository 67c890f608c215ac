"""The loop of a daemon's main thread: sockets and signals."""

import contextlib
import errno
import logging
import selectors
import signal
import socket
from collections.abc import Callable
from types import FrameType, TracebackType

log = logging.getLogger("pyuffd.daemon")

Act = Callable[[socket.socket], None]

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Loop:
    """Waits for sockets and signals, and calls what was asked for. The main thread's; used as a context manager.

    Attributes:
        signals: Those that came, in their order. Who acts on one removes it.

    Args:
        numbers: The signals that it waits for.
    """

    def __init__(self, *numbers: int) -> None:
        self.signals: list[int] = []
        self._numbers = numbers
        self._resting: list[tuple[socket.socket, Act]] = []
        self._told_of_shortage = False

    def watch(self, sock: socket.socket, act: Act) -> None:
        """Call ``act(sock)`` in a turn where something can be read from a socket, which is set to non-blocking."""
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, act)

    def welcome(self, listener: socket.socket, act: Act) -> None:
        """Call ``act(connection)`` for each connection. While descriptors are short, connections wait."""
        self.watch(listener, lambda sock: self._accept(sock, act))

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no more."""
        self._selector.unregister(sock)

    def turn(self, seconds: float) -> None:
        """Wait for a socket or a signal, for so long at most, and act on all sockets that have something."""
        rested, self._resting = self._resting, []
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            if isinstance(sock, socket.socket):
                key.data(sock)
        for listener, act in rested:
            self.welcome(listener, act)

    def _accept(self, listener: socket.socket, act: Act) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._rest(listener, act, error)
            return
        act(connection)

    def _rest(self, listener: socket.socket, act: Act, error: OSError) -> None:
        """Leave a listener out of one turn: it stays readable, and the loop would not rest."""
        self.forget(listener)
        self._resting.append((listener, act))
        if not self._told_of_shortage:
            self._told_of_shortage = True
            log.warning("connections wait: %s (ulimit -n, LimitNOFILE)", error.strerror)

    def __enter__(self) -> "Loop":
        self._selector = selectors.DefaultSelector()
        self._wakes, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, self._note)
        self.watch(self._wakes, _drain)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wakes.close()
        self._woken.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signals.append(number)


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        sock.recv(64)
