"""The client of a page server: reads pages of tasks that are still on another host."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

from pyuffd._core import CallableSource
from pyuffd.criu.images import Images
from pyuffd.daemon.pages.address import PageServer
from pyuffd.daemon.pages.connection import Connection, LayoutError, PageServerError
from pyuffd.daemon.pages.wire import NARROW, WIDE, Layout

log = logging.getLogger("pyuffd.criu")

_TRIES, _DEAD_SECONDS = 3, 5.0
_LAST_SECONDS = 2.0
ADDRESSES = 1 << 57  # the length of a source whose offsets are addresses
_BLOCK = 1 << 21


class PageClient:
    """Reads from a page server. Any number of threads may read at once: their requests are under way together.

    Which layout its messages have is found out by the first request: that of the CRIU that wrote the images is tried
    first. A connection that has failed is replaced by the next read.

    Args:
        server: Where it is.
        images: The images of the tasks.

    Raises:
        ValueError: The files that TLS needs cannot be used.
    """

    def __init__(self, server: PageServer, images: Images) -> None:
        self._server = server
        self._context = server.tls.context(server=False) if server.tls else None
        self._layouts: tuple[Layout, ...] = (WIDE, NARROW) if images.wide_pagemaps else (NARROW, WIDE)
        self._connections: list[Connection] = []
        self._connecting = threading.Lock()
        self._next = 0
        self._dead: PageServerError | None = None
        self._dead_until = 0.0
        self._has_connected = False

    def source(self, task: int) -> CallableSource:
        """Return a source of the memory of a task, whose offsets are addresses."""

        def read(address: int, room: memoryview) -> None:
            self._read(task, address, room)

        # Tried again here, where it is known that the server is dead.
        return CallableSource(read, ADDRESSES, block=_BLOCK, into=True, retries=0)

    def _read(self, task: int, address: int, room: memoryview) -> None:
        at = 0
        while at < len(room):
            with room[at:] as left:
                at += self._read_some(task, address + at, left)

    def _read_some(self, task: int, address: int, room: memoryview) -> int:
        """Read one page at least. A connection that fails takes the others with it, and a new one is tried."""
        failure: PageServerError | None = None
        for _ in range(_TRIES):
            self._refuse_dead()
            try:
                with self._connection(task, address) as connection:
                    return connection.read_into(task, address, room)
            except PageServerError as error:
                failure = error
                self._drop_all()
        with self._connecting:
            self._dead, self._dead_until = failure, time.monotonic() + _DEAD_SECONDS
        raise failure or PageServerError("failed")

    def _refuse_dead(self) -> None:
        """A server that has failed is not asked for a time: each of its pages would wait for as long as the first."""
        if self._dead and time.monotonic() < self._dead_until:
            raise PageServerError(str(self._dead))

    def _drop_all(self) -> None:
        with self._connecting:
            dropped, self._connections = self._connections, []
        for connection in dropped:
            connection.close()

    @contextlib.contextmanager
    def _connection(self, task: int, address: int) -> Iterator[Connection]:
        """Choose a connection in turn; one that fails is used no more."""
        with self._connecting:
            self._connections = [each for each in self._connections if not each.failed]
            if len(self._connections) < self._server.connections:
                self._connections.append(self._connected(task, address))
            self._next = (self._next + 1) % len(self._connections)
            connection = self._connections[self._next]
        yield connection

    def _connected(self, task: int, address: int) -> Connection:
        """Connect. The first time find out which layout is answered, by a request for one page."""
        error: Exception | None = None
        for layout in self._layouts:
            connection = Connection(self._open(self._server.timeout), layout, self._server.timeout)
            if len(self._layouts) == 1:
                return connection
            try:
                connection.try_out(task, address)
            except LayoutError as found:
                error = error or found
                connection.close()
                continue
            self._layouts = (layout,)
            return connection
        raise PageServerError(f"the page server at {self._server.host}:{self._server.port} {error}")

    def _open(self, timeout: float) -> socket.socket:
        server = self._server
        try:
            sock = socket.create_connection((server.host, server.port), timeout=timeout)
            self._has_connected = True
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._context.wrap_socket(sock, server_hostname=server.host) if self._context else sock
        except OSError as error:
            raise PageServerError(
                f"cannot connect to the page server at {server.host}:{server.port}: {error}"
            ) from None

    def close(self) -> None:
        """Tell the server that nothing more is wanted, and close all connections.

        A server that nothing was read from hears it, too: that of ``criu dump --lazy-pages`` waits for it.
        """
        for connection in self._last_connections():
            connection.finish()

    def give_up(self) -> None:
        """Have the server see that the restore has failed: no connection ends as it should."""
        for connection in self._last_connections():
            connection.close()

    def _last_connections(self) -> list[Connection]:
        with self._connecting:
            if self._has_connected:
                return list(self._connections)
        try:
            return [Connection(self._open(_LAST_SECONDS), self._layouts[0], self._server.timeout)]
        except PageServerError as error:
            log.warning("the page server does not hear of the end: %s", error)
            return []
