"""What comes from strangers over a unix socket: who they are, their messages, and their descriptors."""

import array
import os
import socket
import struct
import threading
import time
from pathlib import Path

CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))

_MOST_DESCRIPTORS = 253  # that one message can have (SCM_MAX_FD): one that is not received is closed by this thread
_MOST_BYTES = 1 << 24  # about 150 000 regions
_DEADLINE_SECONDS = 10.0


def peer_of(sock: socket.socket) -> tuple[int, int, int]:
    """Return the pid, uid and gid of the process that connected."""
    pid, uid, gid = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid, gid


def known_peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return the pid, uid and gid of the process that connected. A sender such as Firecracker sends no credentials.

    Raises:
        ValueError: The kernel names this process, or none.
    """
    pid, uid, gid = peer_of(sock)
    if pid in (0, os.getpid()):
        raise ValueError(
            "the sender's pid is not known: the hand-off came without SCM_CREDENTIALS, and SO_PEERCRED names this "
            "process or none. The sender must connect to a listening socket, or use pyuffd.handoff.send"
        )
    return pid, uid, gid


def check_descriptors(fds: list[int]) -> None:
    """Check that a hand-off came with one userfaultfd, and with no other descriptor.

    Raises:
        ValueError: Another number came, or another kind.
    """
    if len(fds) != 1:
        came = f"{len(fds)} came" if len(fds) < 2 else "more came"
        raise ValueError(f"a hand-off has one descriptor, but {came}: send it with pyuffd.handoff.send")
    kind = str(Path(f"/proc/self/fd/{fds[0]}").readlink())
    if kind != "anon_inode:[userfaultfd]":
        raise ValueError(f"descriptor {fds[0]} is not a userfaultfd, but {kind}: send it with pyuffd.handoff.send")


def close_elsewhere(fds: list[int]) -> None:
    """Close descriptors of a stranger, whose close can take as long as the stranger likes."""
    if not fds:
        return
    refused = list(fds)
    fds.clear()
    thread = threading.Thread(target=_close_all, args=(refused,), name="pyuffd-close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread can be started
        _close_all(refused)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def receive_message(sock: socket.socket) -> tuple[bytes, list[int], tuple[int, int, int] | None]:
    """Read until the text is a whole JSON value, because a stream can cut the message anywhere.

    Returns:
        The text, the descriptors, and the pid, uid and gid of the sender if they came with it.

    Raises:
        TimeoutError: No complete message came in time.
        ValueError: The message is too long, or has more than one descriptor.
        ConnectionError: The sender closed the connection.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize) + socket.CMSG_SPACE(CREDENTIALS.size)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    before = sock.gettimeout()
    text = b""
    fds: list[int] = []
    sender = None
    try:
        while True:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            part, ancillary, _, _ = sock.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
            fds += [fd for message in ancillary for fd in _descriptors(message)]
            sender = next((found for message in ancillary if (found := _sender(message))), sender)
            if len(fds) > 1:
                check_descriptors(fds)
            if not part:
                raise ConnectionError("the sender closed the connection before its hand-off was complete")
            text += part
            if len(text) > _MOST_BYTES:
                raise ValueError(
                    f"a hand-off has at most {_MOST_BYTES} bytes, but this one is longer: send fewer regions"
                )
            if _is_whole(text):
                return text, fds, sender
            if time.monotonic() > deadline:
                raise TimeoutError(f"no complete hand-off came within {_DEADLINE_SECONDS:.0f} seconds")
    except BaseException:
        close_elsewhere(fds)
        raise
    finally:
        sock.settimeout(before)


def _descriptors(message: tuple[int, int, bytes]) -> list[int]:
    level, kind, data = message
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return []
    fds = array.array("i")
    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _sender(message: tuple[int, int, bytes]) -> tuple[int, int, int] | None:
    """Return the pid, uid and gid of the sender. The kernel has checked them."""
    level, kind, data = message
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
        return None
    pid, uid, gid = CREDENTIALS.unpack(data[: CREDENTIALS.size])
    return (pid, uid, gid) if pid else None


def _is_whole(text: bytes) -> bool:
    """Whether the last bracket of the array came. The content is checked afterwards."""
    return text.rstrip().endswith(b"]") or not text.lstrip().startswith(b"[")
