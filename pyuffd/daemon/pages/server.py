"""``pyuffd serve criu-pages``: sends the pages of images to the lazy restores of other hosts."""

import contextlib
import logging
import mmap
import os
import socket
import ssl
import threading
from pathlib import Path

import numpy as np

from pyuffd.criu.errors import ImageError
from pyuffd.criu.images import Images, Task
from pyuffd.daemon.background import Background, stopping_signals, tell_ready
from pyuffd.daemon.limits import allow_many_descriptors
from pyuffd.daemon.loop import Loop
from pyuffd.daemon.notify import notify
from pyuffd.daemon.pages.options import Options
from pyuffd.daemon.pages.wire import CLOSE, FORCE_CLOSE, FOUND, GET, NARROW, STATUS, WIDE, Layout, Message

log = logging.getLogger("pyuffd.criu")

_PAGE = mmap.PAGESIZE
_LOOK_SECONDS = 1.0
_STALL_SECONDS = 60.0
_MOST_BYTES = 4 << 20  # of compressed pages in one answer


class RequestError(Exception):
    """A client that asks for what there is not."""


class PagesDaemon:
    """The daemon: each connection has a thread of its own.

    Args:
        options: How to serve.

    Raises:
        ImageError: The images are damaged.
        ValueError: The files that TLS needs cannot be used.
        OSError: Nobody can listen at the address.
    """

    def __init__(self, options: Options) -> None:
        allow_many_descriptors()
        self._options = options
        self._images = Images(options.images)
        self._context = options.tls.context(server=True) if options.tls else None
        self._background = Background() if options.background else None
        self._threads: list[threading.Thread] = []

    def run(self) -> int:
        """Serve until a signal ends it.

        Returns:
            The exit code.
        """
        options = self._options
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family)
        with listener, Loop(*stopping_signals()) as loop:
            loop.welcome(listener, self._admit)
            host, port = listener.getsockname()[:2]
            tasks = len(self._images.tasks)
            log.info("serving the pages of %s (tasks: %d) at %s, port %d", options.images, tasks, host, port)
            tell_ready(options.pidfile, options.status_fd)
            notify("READY=1", f"MAINPID={os.getpid()}")
            if self._background:
                self._background.ready()
            while not loop.signals:
                loop.turn(_LOOK_SECONDS)
        return 0

    def _admit(self, sock: socket.socket) -> None:
        try:
            host = sock.getpeername()[0]
        except OSError:  # it has gone again
            sock.close()
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= self._options.connections:
            log.warning("refused %s: %d connections are open (--connections)", host, len(self._threads))
            sock.close()
            return
        thread = threading.Thread(target=self._serve, args=(sock, host), name="pyuffd-pages", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.error("refused %s: no thread can be started (ulimit -u)", host)
            sock.close()
            return
        self._threads.append(thread)

    def _serve(self, sock: socket.socket, host: str) -> None:
        try:
            with self._secured(sock) as secured:
                log.info("%s has read %d pages", host, PagesConnection(secured, self._images).run())
        except (RequestError, ImageError, OSError) as error:
            log.warning("%s: %s", host, error)

    def _secured(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(_STALL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not self._context:
            return sock
        try:
            return self._context.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            raise


class PagesConnection:
    """One client, from its first request to its last."""

    def __init__(self, sock: socket.socket, images: Images) -> None:
        self._sock, self._images = sock, images
        self._layout: Layout | None = None
        self._files: dict[str, int] = {}

    def run(self) -> int:
        """Answer all requests.

        Returns:
            How many pages were sent.

        Raises:
            RequestError: The client asks for what there is not.
            OSError: The connection failed.
        """
        sent = 0
        try:
            while request := self._request():
                if request.kind in (CLOSE, FORCE_CLOSE):
                    self._sock.sendall(STATUS.pack(0))
                    break
                if request.kind != GET:
                    raise RequestError(f"command {request.command:#x} is none of a lazy restore's")
                sent += self._answer(request)
        finally:
            for fd in self._files.values():
                os.close(fd)
        return sent

    def _request(self) -> Message | None:
        """Read the next request; None at the end of the connection."""
        self._sock.settimeout(None)  # it may be a long time until somebody touches the next page
        data = self._received(NARROW.size)
        if not data:
            return None
        if self._layout is None:
            self._layout = NARROW if self._is_narrow(NARROW.unpack(data)) else WIDE
        if self._layout is WIDE:
            rest = self._received(WIDE.size - NARROW.size)
            if not rest:
                raise RequestError("it closed the connection in a request")
            data += rest
        return self._layout.unpack(data)

    def _is_narrow(self, message: Message) -> bool:
        """Whether a request makes sense in the shorter layout; one in the longer layout has an address for its task."""
        task = self._images.tasks.get(message.task)
        if message.kind in (CLOSE, FORCE_CLOSE):
            return False
        return task is not None and message.pages > 0 and _place_in(task, message.address) is not None

    def _received(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._sock.recv(count - len(data))
            self._sock.settimeout(_STALL_SECONDS)
            if not part:
                if data:
                    raise RequestError("it closed the connection in a request")
                return b""
            data += part
        return data

    def _answer(self, request: Message) -> int:
        task = self._images.tasks.get(request.task)
        if task is None:
            raise RequestError(f"there is no task {request.task}")
        place = _place_in(task, request.address)
        if place is None or request.pages < 1:
            raise RequestError(f"no image has {request.pages} pages of task {request.task} at {request.address:#x}")
        number, left = place
        length = min(request.pages * _PAGE, left)
        ranges = task.lazy
        file = ranges.offset[number] >= 0
        length = length if file else min(length, _MOST_BYTES)
        self._send_head(Message(FOUND, length // _PAGE, request.address, request.task))
        if file:
            offset = int(ranges.offset[number]) + request.address - int(ranges.start[number])
            self._send_file(ranges.files[int(ranges.file[number])], offset, length)
        else:
            self._sock.sendall(task.read(request.address, length))
        return length // _PAGE

    def _send_head(self, head: Message) -> None:
        layout = self._layout or WIDE
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.sendall(layout.pack(head))
        else:
            self._sock.sendall(layout.pack(head), socket.MSG_MORE)

    def _send_file(self, path: str, offset: int, length: int) -> None:
        fd = self._files.get(path)
        if fd is None:
            fd = self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if isinstance(self._sock, ssl.SSLSocket):
            data = os.pread(fd, length, offset)
            if len(data) != length:
                raise RequestError(f"{Path(path).name} has become shorter")
            self._sock.sendall(data)
            return
        with contextlib.closing(os.fdopen(os.dup(fd), "rb", buffering=0)) as file:
            if self._sock.sendfile(file, offset, length) != length:
                raise RequestError(f"{Path(path).name} has become shorter")


def _place_in(task: Task, address: int) -> tuple[int, int] | None:
    """Find the range that has an address.

    Returns:
        Its number, and how many bytes it has from the address on; None if no range has it.
    """
    ranges = task.lazy
    number = int(np.searchsorted(ranges.start, address, side="right")) - 1
    if number < 0 or address % _PAGE:
        return None
    left = int(ranges.start[number] + ranges.length[number]) - address
    return (number, left) if left > 0 else None
