"""Who connects to a daemon: admitted one after the other, each heard on a thread of its own."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from pyuffd._strangers import peer_of
from pyuffd.daemon.limits import can_take
from pyuffd.daemon.loop import Loop

log = logging.getLogger("pyuffd.daemon")

_MOST, _MOST_OF_USER = 64, 48  # hand-offs at once
_FINISH_SECONDS = 2.0


class _Heard(NamedTuple):
    uid: int
    connection: socket.socket
    thread: threading.Thread


class Reception:
    """Accepts connections as long as there are threads and descriptors for them. The main thread's.

    A user whose hand-offs have many threads waits until some of them are done, and holds up no other user.

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
        self._heard: list[_Heard] = []
        self._waiting: list[tuple[int, socket.socket]] = []
        self._pauses = self._told = False
        loop.watch(listener, self._receive)

    def look(self) -> None:
        """Hear who waits, and accept again, if that was not possible for a time."""
        self._heard = [each for each in self._heard if each.thread.is_alive()]
        waiting, self._waiting = self._waiting, []
        for uid, connection in waiting:
            self._hear(uid, connection)
        if self._pauses and self._has_room():
            self._pauses = False
            self._loop.watch(self._listener, self._receive)

    def finish(self) -> None:
        """Hear all that have connected, and wait for them: their descriptors would be lost with the daemon.

        Who has not sent all of a hand-off by then is refused.
        """
        for uid, connection in [*self._waiting, *self._backlog()]:
            self._begin(uid, connection)
        self._waiting = []
        deadline = time.monotonic() + _FINISH_SECONDS
        for heard in self._heard:
            heard.thread.join(max(0.0, deadline - time.monotonic()))
            if heard.thread.is_alive():
                with contextlib.suppress(OSError):
                    heard.connection.shutdown(socket.SHUT_RDWR)
                heard.thread.join()

    def _backlog(self) -> Iterator[tuple[int, socket.socket]]:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                yield from self._permitted(connection)

    def _has_room(self) -> bool:
        return len(self._heard) < _MOST and can_take(len(self._heard) + 1)

    def _receive(self, listener: socket.socket) -> None:
        if not self._has_room():
            self._pause()
            return
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        for uid, permitted in self._permitted(connection):
            self._hear(uid, permitted)

    def _permitted(self, connection: socket.socket) -> Iterator[tuple[int, socket.socket]]:
        pid, uid, _ = peer_of(connection)
        if uid in self._allow:
            yield uid, connection
        else:
            log.warning("refused process %d of user %d: see --allow-uid", pid, uid)
            connection.close()

    def _hear(self, uid: int, connection: socket.socket) -> None:
        of_user = sum(1 for each in self._heard if each.uid == uid)
        if of_user >= _MOST_OF_USER or not self._has_room():
            self._waiting.append((uid, connection))
        else:
            self._begin(uid, connection)

    def _begin(self, uid: int, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name="pyuffd-receive", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.error("a hand-off was refused: no thread can be started (ulimit -u)")
            connection.close()
            return
        self._heard.append(_Heard(uid, connection, thread))

    def _pause(self) -> None:
        """Leave all others in the backlog, where they wait."""
        self._pauses = True
        self._loop.forget(self._listener)
        if len(self._heard) < _MOST and not self._told:
            self._told = True
            log.warning("hand-offs wait until a target ends: too few descriptors are left (ulimit -n, LimitNOFILE)")
