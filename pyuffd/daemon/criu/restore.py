"""The connection of ``criu restore --lazy-pages``, and what came over it."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable

from pyuffd._strangers import peer_of
from pyuffd.daemon.criu.records import Records, RestoreError, TaskRecord
from pyuffd.daemon.loop import Loop

log = logging.getLogger("pyuffd.criu")


class Restore:
    """The one restore that a daemon serves. The main thread's.

    Args:
        loop: Where its connection is watched.
        add: Called with each record of a task.
        finish: Called when the marker has come.
    """

    def __init__(self, loop: Loop, add: Callable[[TaskRecord], None], finish: Callable[[], None]) -> None:
        self._loop, self._add, self._finish = loop, add, finish
        self._connection: socket.socket | None = None  # until the restore closes it
        self._records: Records | None = None
        self._refused: list[TaskRecord] = []

    @property
    def begun(self) -> bool:
        """Whether it has connected."""
        return self._records is not None

    @property
    def finished(self) -> bool:
        """Whether its marker came."""
        return self._records is not None and self._records.finished

    def admit(self, connection: socket.socket) -> None:
        """Take a connection for that of the restore, if it may be."""
        pid, uid, _ = peer_of(connection)
        if uid not in (0, os.geteuid()):
            log.warning("refused process %d of user %d: criu restore runs as root, or as this user", pid, uid)
            connection.close()
        elif self.begun:
            log.warning("refused process %d: another restore is under way", pid)
            connection.close()
        else:
            self._connection, self._records = connection, Records(connection)
            self._loop.watch(connection, lambda _: self.receive())

    def receive(self) -> None:
        """Act on all that has come.

        Raises:
            RestoreError: The restore failed, or sent what is no record.
        """
        records, connection = self._records, self._connection
        if records is None or connection is None:
            return
        was_finished = records.finished
        for record in records.read():
            try:
                self._add(record)
            except Exception:
                self._refused.append(record)
                raise
        if records.finished and not was_finished:
            self._finish()
        if records.ended:
            self._connection = None
            self._loop.forget(connection)
            connection.close()

    def cut(self) -> list[TaskRecord]:
        """Have the restore hear that it has failed.

        Returns:
            The tasks that were refused, and those that nobody has read.
        """
        if self._connection:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        return [*self._refused, *self._unread()]

    def _unread(self) -> list[TaskRecord]:
        found: list[TaskRecord] = []
        if self._records and self._connection:
            with contextlib.suppress(RestoreError, OSError):
                for record in self._records.read():
                    found.append(record)  # those before an error, too
        return found
