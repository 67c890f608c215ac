"""Page servers: pyuffd's own in a process, and one that answers as a test says."""

import contextlib
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from support.criu_daemon import COMMAND
from support.criu_images import PAGE
from support.state import until

NARROW, WIDE = struct.Struct("=IIQQ"), struct.Struct("=I4xQQQ")
GET, ADD_F, CLOSE = 7, 6 | 4 << 16, 0x1023

Answer = Callable[[socket.socket, int, int, int], None]


class PagesDaemon:
    """``pyuffd serve criu-pages``, which listens."""

    def __init__(self, images: Path, *options: str) -> None:
        self._log = images.parent / "pages.log"
        command = [*COMMAND, "serve", "criu-pages", "-D", str(images), "-o", str(self._log), *options]
        self.process = subprocess.Popen(command, start_new_session=True)
        until(lambda: self.process.poll() is not None or "port" in self.log(), "the page server")
        found = re.search(r"port (\d+)", self.log())
        assert found, self.log()
        self.port = int(found[1])

    def log(self) -> str:
        """What it has logged until now."""
        return self._log.read_text() if self._log.exists() else ""

    def options(self) -> list[str]:
        """Those of a client."""
        return options(self.port)

    def __enter__(self) -> "PagesDaemon":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0


class FakePages:
    """A page server that reads requests of one layout, and answers each as it is told.

    Attributes:
        requests: All that came: pages, address and task of each.
        connections: How many there were.
        closed: How many of them ended with the message that nothing more is wanted.

    Args:
        answer: Called with the connection, and pages, address and task of the request.
        layout: That of the messages. It closes a connection whose first message is of another one, as CRIU does.
    """

    def __init__(self, answer: Answer, layout: struct.Struct = WIDE) -> None:
        self._answer, self._layout = answer, layout
        self.requests: list[tuple[int, int, int]] = []
        self.connections = self.closed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(self._layout.size, socket.MSG_WAITALL):
                if len(request) < self._layout.size:
                    return
                command, pages, address, task = self._layout.unpack(request)
                if command == CLOSE:
                    self.closed += 1
                    connection.sendall(struct.pack("=i", 0))
                    return
                if command != GET or not 0 < pages < 1 << 32 or address % PAGE or not 0 < task < 1 << 22:
                    return
                self.requests.append((pages, address, task))
                self._answer(connection, pages, address, task)

    def send(self, connection: socket.socket, pages: int, address: int, task: int, data: bytes) -> None:
        """Send an answer."""
        connection.sendall(self._layout.pack(ADD_F, pages, address, task) + data)

    def __enter__(self) -> "FakePages":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def options(port: int) -> list[str]:
    """Those of a client of a page server on this host."""
    return ["--page-server", "--address", "127.0.0.1", "--port", str(port)]


def make_certificates(folder: Path) -> dict[str, Path]:
    """Make a certificate of who signs, and one with a key that it has signed, for both ends."""
    folder.mkdir()
    paths = {name: folder / f"{name}.pem" for name in ("ca", "ca-key", "cert", "key", "request")}
    extension = folder / "extension"
    extension.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")

    def openssl(*words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", paths["ca-key"], "-out", paths["ca"], "-subj", "/CN=ca", "-days", 2,
            "-addext", "keyUsage=keyCertSign,cRLSign")  # fmt: skip
    openssl("req", *key, "-keyout", paths["key"], "-out", paths["request"], "-subj", "/CN=127.0.0.1")
    openssl("x509", "-req", "-in", paths["request"], "-CA", paths["ca"], "-CAkey", paths["ca-key"], "-CAcreateserial",
            "-out", paths["cert"], "-days", 2, "-extfile", extension)  # fmt: skip
    return paths


def tls_options(paths: dict[str, Path]) -> list[str]:
    """Those of one end."""
    return ["--tls", "--tls-cacert", str(paths["ca"]), "--tls-cert", str(paths["cert"]), "--tls-key", str(paths["key"])]
