"""What ``criu restore --lazy-pages`` sends over ``lazy-pages.socket``.

Each task sends its pid, the one inside the restored pid namespace, as a native int of four bytes; then one byte with
its userfaultfd in SCM_RIGHTS. A zombie sends a negative pid and no descriptor. All of them share one connection. At the
end the restore sends a marker that is no pid (criu/uffd.c, version 4.2).
"""

import array
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyuffd._core import Userfaultfd
from pyuffd._strangers import CREDENTIALS, check_descriptors, close_elsewhere

FINISHED = 0x52535446  # "RSTF"

_PID = struct.Struct("=i")
_HIGHEST_PID = 1 << 22  # PID_MAX_LIMIT
_ROOM = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(253 * array.array("i").itemsize)


class RestoreError(RuntimeError):
    """A restore that ended too early, or that sent what is no record."""


@dataclass(frozen=True)
class TaskRecord:
    """A task that is restored.

    Attributes:
        pid: The one inside the restored pid namespace.
        uffd: Its userfaultfd; None for a zombie.
        real_pid: Its pid in the namespace of this process, by the kernel's word; None if the kernel does not tell.
    """

    pid: int
    uffd: Userfaultfd | None = None
    real_pid: int | None = None


class Records:
    """The records of one connection, which a restore may send in pieces. One thread uses it.

    Attributes:
        finished: Whether the marker came.
        ended: Whether the restore closed the connection afterwards.

    Args:
        connection: It does not block, and its listener had SO_PASSCRED set.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._head = b""
        self._pid: int | None = None  # whose descriptor is still to come
        self.finished = self.ended = False

    def read(self) -> Iterator[TaskRecord]:
        """Yield all records that have come as a whole.

        Raises:
            RestoreError: The restore closed the connection before the marker, or sent something else.
        """
        while True:
            try:
                data, fds, real_pid = self._receive(1 if self._pid is not None else _PID.size - len(self._head))
            except BlockingIOError:
                return
            except ConnectionError:
                data, fds, real_pid = b"", [], None
            record = self._take(data, fds, real_pid)
            if record:
                yield record
            if not data:
                return

    def _receive(self, count: int) -> tuple[bytes, list[int], int | None]:
        data, ancillary, _, _ = self._connection.recvmsg(count, _ROOM, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        real_pid = None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                real_pid = CREDENTIALS.unpack(content[: CREDENTIALS.size])[0] or None
        return data, list(fds), real_pid

    def _take(self, data: bytes, fds: list[int], real_pid: int | None) -> TaskRecord | None:
        try:
            if not data:
                self._end()
                return None
            if self.finished:
                raise RestoreError("the restore sent something after its marker")
            if self._pid is not None:
                return self._take_descriptor(self._pid, fds, real_pid)
            if fds:
                raise RestoreError("a descriptor came before the pid of its task")
            return self._take_head(data)
        finally:
            close_elsewhere(fds)

    def _end(self) -> None:
        self.ended = True
        if not self.finished:
            raise RestoreError(
                "criu restore closed the connection before all tasks were restored: its log tells why it failed"
            )

    def _take_head(self, data: bytes) -> TaskRecord | None:
        self._head += data
        if len(self._head) < _PID.size:
            return None
        (pid,) = _PID.unpack(self._head)
        self._head = b""
        if pid == FINISHED:
            self.finished = True
            return None
        if pid == 0 or abs(pid) > _HIGHEST_PID:
            raise RestoreError(f"{pid} came instead of a pid: is the client criu restore --lazy-pages?")
        if pid < 0:
            return TaskRecord(-pid)
        self._pid = pid
        return None

    def _take_descriptor(self, pid: int, fds: list[int], real_pid: int | None) -> TaskRecord:
        try:
            check_descriptors(fds)
            uffd = Userfaultfd.adopt(fds.pop())
        except (ValueError, OSError):
            raise RestoreError(f"what followed pid {pid} is not one userfaultfd") from None
        self._pid = None
        return TaskRecord(pid, uffd, real_pid)
