"""One connection to a page server, whose requests are answered in their order."""

import contextlib
import mmap
import socket
import ssl
import threading
from typing import Any

from pyuffd.daemon.pages.wire import ADD_F, CLOSE, GET, STATUS, Layout, Message

_PAGE = mmap.PAGESIZE
_MOST_TRIED_SECONDS = 5.0
_FINISH_SECONDS = 1.0
# A fault's answer waits for all that was asked for before. So few large requests of fills are under way at once.
_LARGE, _MOST_LARGE = 256 << 10, 2


class PageServerError(Exception):
    """A page server that cannot be reached, does not answer, or answers what was not asked."""


class WrongAnswerError(PageServerError):
    """An answer to something that was not asked."""


class LayoutError(PageServerError):
    """No answer came to the first request: the server may expect the other layout."""


class Connection:
    """A connection. Threads send their requests at once, and read their answers in the order of the requests.

    Attributes:
        failed: Whether it cannot be used any more.

    Args:
        sock: A connected socket, which it owns.
        layout: That of the messages.
        timeout: Seconds without a byte after which the server has failed.
    """

    def __init__(self, sock: socket.socket, layout: Layout, timeout: float) -> None:
        self._sock, self._layout, self._timeout = sock, layout, timeout
        sock.settimeout(timeout)
        # Before Python 3.13 no two threads may use one TLS connection at once.
        is_tls = isinstance(sock, ssl.SSLSocket)
        self._alone: contextlib.AbstractContextManager[Any] = threading.Lock() if is_tls else contextlib.nullcontext()
        self._fills = threading.BoundedSemaphore(_MOST_LARGE)
        self._sending = threading.Lock()
        self._turns = threading.Condition()
        self._asked = self._answered = 0
        self.failed = False

    def try_out(self, task: int, address: int) -> None:
        """Read one page.

        Raises:
            LayoutError: The server closes the connection, or does not answer soon.
        """
        self._sock.settimeout(min(self._timeout, _MOST_TRIED_SECONDS))
        try:
            self.read_into(task, address, memoryview(bytearray(_PAGE)))
        except WrongAnswerError:
            raise
        except (PageServerError, OSError) as error:
            raise LayoutError(str(error)) from None
        self._sock.settimeout(self._timeout)

    def read_into(self, task: int, address: int, room: memoryview) -> int:
        """Read pages of a task.

        Args:
            task: Its pid in the images.
            address: That of the first page.
            room: Where the bytes are put; whole pages.

        Returns:
            How many bytes came, one page at least.

        Raises:
            PageServerError: The server answers something else, or not at all. The connection has failed.
        """
        with self._fills if len(room) >= _LARGE else contextlib.nullcontext(), self._alone:
            return self._exchange(Message(GET, len(room) // _PAGE, address, task), room)

    def _exchange(self, request: Message, room: memoryview) -> int:
        turn = self._ask(request)
        with self._turns:
            self._turns.wait_for(lambda: self._answered == turn or self.failed)
            if self.failed:
                raise PageServerError("failed while another answer of it was awaited")
        try:
            got = self._answer(request, room)
        except BaseException as error:
            self.close()  # those whose turn comes next would wait for ever
            if not isinstance(error, OSError):
                raise
            raise PageServerError(f"did not answer for {self._timeout:g} s" if isinstance(error, TimeoutError)
                                  else f"failed: {error}") from None  # fmt: skip
        with self._turns:
            self._answered += 1
            self._turns.notify_all()
        return got

    def _ask(self, message: Message) -> int:
        with self._sending:
            try:
                self._sock.sendall(self._layout.pack(message))
            except OSError as error:
                self.close()
                raise PageServerError(f"failed: {error}") from None
            self._asked += 1
            return self._asked - 1

    def _answer(self, request: Message, room: memoryview) -> int:
        head = bytearray(self._layout.size)
        self._fill(memoryview(head))
        message = self._layout.unpack(bytes(head))
        is_same = (message.kind, message.address, message.task) == (ADD_F, request.address, request.task)
        if not is_same or not 0 < message.pages <= request.pages:
            raise WrongAnswerError(
                f"answered command {message.command:#x}, {message.pages} pages of task {message.task} at "
                f"{message.address:#x}, to a request for {request.pages} of task {request.task} at {request.address:#x}"
            )
        with room[: message.pages * _PAGE] as part:
            self._fill(part)
        return message.pages * _PAGE

    def _fill(self, room: memoryview) -> None:
        at = 0
        while at < len(room):
            with room[at:] as left:
                got = self._sock.recv_into(left)
            if got == 0:
                raise PageServerError("closed the connection")
            at += got

    def close(self) -> None:
        """Use it no more. Whoever waits for an answer has an error."""
        with self._turns:
            self.failed = True
            self._turns.notify_all()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # for a thread that reads
        self._sock.close()

    def finish(self) -> None:
        """Tell the server that nothing more is wanted, and hear its last word."""
        if self.failed:
            return
        try:
            self._sock.settimeout(_FINISH_SECONDS)
            with self._sending:
                self._sock.sendall(self._layout.pack(Message(CLOSE)))
            self._sock.recv(STATUS.size)
        except OSError:
            pass
        self.close()
