"""What other processes ask a daemon: one line of JSON each way, over a socket that its user alone can connect to."""

import array
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyuffd.daemon import sockets

_MOST_BYTES = 65536
_SECONDS = 10.0
_REQUEST_SECONDS = 1.0  # other requests wait meanwhile


class RequestError(Exception):
    """A request that is none."""


def control_path(path: Path) -> Path:
    """Return the path of the control socket of the daemon that listens at a path."""
    return path.with_name(path.name + ".control")


def read_request(connection: socket.socket) -> dict[str, Any]:
    """Read one request of a peer, which may send anything.

    Raises:
        RequestError: It is no JSON object in one line of a bounded length.
    """
    deadline = time.monotonic() + _REQUEST_SECONDS
    text = b""
    while not text.endswith(b"\n"):
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(4096)
        text += part
        if not part or len(text) > _MOST_BYTES:
            raise RequestError("a request is one line of JSON")
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError("a request is one line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise RequestError('a request is a JSON object with the field "command"')
    return request


def answer_one(connection: socket.socket, commands: Mapping[str, Callable[[socket.socket], None]]) -> None:
    """Answer the request of a connection by the function of its command, and close the connection."""
    with connection:
        try:
            if not sockets.is_permitted(connection, {0, os.geteuid()}):
                raise RequestError("only the daemon's user may ask")
            command = read_request(connection)["command"]
            if command not in commands:
                raise RequestError(f"there is no command {command!r}: ask for {' or '.join(commands)}")
            commands[command](connection)
        except (RequestError, OSError) as error:
            answer(connection, {"error": str(error)})


def answer(connection: socket.socket, found: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send an answer, with descriptors. A peer that does not read gets none."""
    text = json.dumps(found).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())] if descriptors else []
    with contextlib.suppress(OSError):
        sent = connection.sendmsg([text], rights)
        connection.sendall(text[sent:])


def ask(path: Path, command: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Ask the daemon that listens at a path.

    Returns:
        The answer, and the descriptors that came with it.

    Raises:
        ConnectionError: No daemon listens there.
        RequestError: The daemon refuses.
    """
    where = control_path(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_SECONDS)
        try:
            sock.connect(os.fspath(where))
        except OSError as error:
            why = error.strerror or str(error)
            raise ConnectionError(f"no daemon listens at {path} ({why}): start one with 'pyuffd serve'") from None
        sock.sendall(json.dumps({"command": command}).encode() + b"\n")
        text = b""
        fds = array.array("i")
        while not text.endswith(b"\n"):
            part, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
            for _, _, data in ancillary:
                fds.frombytes(data)
            if not part:
                break
            text += part
    found: dict[str, Any] = json.loads(text or b'{"error": "the daemon ended"}')
    if "error" in found:
        for fd in fds:
            os.close(fd)
        raise RequestError(str(found["error"]))
    return found, tuple(fds)
