"""Who connects to a daemon: admitted one after the other, each heard on a thread of its own."""

import logging
import socket
import threading
from collections.abc import Callable, Collection

from pyuffd._strangers import peer_of
from pyuffd.daemon import sockets
from pyuffd.daemon.limits import can_take
from pyuffd.daemon.loop import Loop

log = logging.getLogger("pyuffd.daemon")

_MOST = 64  # hand-offs at once


class Reception:
    """Accepts connections as long as there are threads and descriptors for them. The main thread's.

    Args:
        loop: Where the listener is watched.
        listener: Where targets connect.
        allow: The users whose processes may connect.
        serve: Called with each connection, on a thread of its own; it may take its time, and closes the connection.
    """

    def __init__(
        self, loop: Loop, listener: socket.socket, allow: Collection[int], serve: Callable[[socket.socket], None]
    ) -> None:
        self._loop, self._listener, self._allow, self._serve = loop, listener, allow, serve
        self._threads: list[threading.Thread] = []
        self._pauses = self._told = False
        loop.watch(listener, self._receive)

    def look(self) -> None:
        """Accept again, if that was not possible for a time."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if self._pauses and self._has_room():
            self._pauses = False
            self._loop.watch(self._listener, self._receive)

    def finish(self) -> None:
        """Wait for those that are heard, one second for each."""
        for thread in self._threads:
            thread.join(1.0)

    def _has_room(self) -> bool:
        return len(self._threads) < _MOST and can_take(len(self._threads) + 1)

    def _receive(self, listener: socket.socket) -> None:
        if not self._has_room():
            self._pause()
            return
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if not sockets.is_permitted(connection, self._allow):
            log.warning("refused process %d of user %d: see --allow-uid", *peer_of(connection)[:2])
            connection.close()
            return
        thread = threading.Thread(target=self._serve, args=(connection,), name="pyuffd-receive", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.error("a hand-off was refused: no thread can be started (ulimit -u)")
            connection.close()
            return
        self._threads.append(thread)

    def _pause(self) -> None:
        """Leave all others in the backlog, where they wait."""
        self._pauses = True
        self._loop.forget(self._listener)
        if len(self._threads) < _MOST and not self._told:
            self._told = True
            log.warning("hand-offs wait until a target ends: too few descriptors are left (ulimit -n, LimitNOFILE)")
