"""Hand a userfaultfd and its regions from a target to its manager over a unix socket.

The format is Firecracker's: one JSON array of ``base_host_virt_addr``, ``size``, ``offset`` and ``page_size`` (all in
bytes), with the descriptor in SCM_RIGHTS, in one message. A manager that uses this module can therefore serve
Firecracker snapshots. Messages of pyuffd also have a ``mode``, which other programs ignore.
"""

import array
import json
import operator
import os
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from pyuffd._arguments import check_flag, check_instance, check_source, check_word
from pyuffd._core import Region, Source, Userfaultfd
from pyuffd._flags import RegisterMode

Mode = Literal["missing", "minor", "missing+minor", "missing+wp"]
OnRemove = Literal["auto", "keep", "zero", "poison"]

REGISTER_MODES: dict[str, RegisterMode] = {
    "missing": RegisterMode.MISSING,
    "minor": RegisterMode.MINOR,
    "missing+minor": RegisterMode.MISSING | RegisterMode.MINOR,
    "missing+wp": RegisterMode.MISSING | RegisterMode.WP,
}

_MOST_BYTES = 1 << 24  # about 150 000 regions
_DEADLINE_SECONDS = 10.0
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))


class _Options(TypedDict):
    mode: Mode | None
    on_remove: OnRemove


@dataclass(frozen=True)
class Handoff:
    """What ``receive()`` returns: all arguments of ``serve()``.

    Attributes:
        uffd: The userfaultfd of the target.
        regions: The regions, which the sender has registered.
        pid: The process id of the target.
    """

    uffd: Userfaultfd
    regions: list[Region]
    pid: int


def send(
    sock: socket.socket,
    uffd: Userfaultfd,
    regions: Iterable[tuple[int, int, int, int]],
    keep: bool = False,
    register: bool = True,
    mode: Mode = "missing",
) -> None:
    """Hand a userfaultfd of this process to the manager at the other end of a unix stream socket.

    Args:
        sock: A connected unix stream socket.
        uffd: A userfaultfd that this process opened. ``send()`` closes it afterwards unless ``keep`` is True, because
            the manager cannot use an early close while this process holds a descriptor.
        regions: (start, length, offset in the source, page size) of each region, in bytes.
        keep: Whether this process keeps its descriptor open.
        register: Whether to register the regions; False if they are registered already.
        mode: The mode of the regions (see ``Region``). The message has it.

    Raises:
        ValueError: A region has not four numbers, or the userfaultfd is closed.
        OSError: A region cannot be registered, or the socket fails. The userfaultfd is then still open, and the regions
            that this call registered are unregistered again.
    """
    check_instance("sock", sock, socket.socket)
    check_instance("uffd", uffd, Userfaultfd)
    check_flag("keep", keep)
    check_flag("register", register)
    check_word("mode", mode, get_args(Mode))
    entries = [tuple(operator.index(number) for number in region) for region in regions]
    for entry in entries:
        if len(entry) != 4:
            raise ValueError(f"region {entry} has {len(entry)} numbers; it must be (start, length, offset, page_size)")
    registered: list[tuple[int, int]] = []
    try:
        for start, length, _, _ in entries if register else ():
            uffd.register(start, length, REGISTER_MODES[mode])
            registered.append((start, length))
        _send_message(sock, uffd, entries, mode)
    except BaseException:
        for start, length in registered:  # nobody serves them
            uffd.unregister(start, length)
            uffd.wake(start, length)
        raise
    if not keep:
        uffd.close()


def _send_message(sock: socket.socket, uffd: Userfaultfd, entries: list[tuple[int, ...]], mode: Mode) -> None:
    names = ("base_host_virt_addr", "size", "offset", "page_size")
    text = json.dumps([dict(zip(names, entry, strict=True)) | {"mode": mode} for entry in entries]).encode()
    credentials = _CREDENTIALS.pack(os.getpid(), os.getuid(), os.getgid())
    ancillary = [
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [uffd.fileno()]).tobytes()),
        (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),
    ]
    sent = sock.sendmsg([text], ancillary)
    if sent < len(text):  # otherwise the receiver has the whole text, and has perhaps closed the connection already
        sock.sendall(text[sent:])


def receive(
    sock: socket.socket,
    source: Source | None,
    *,
    mode: Mode | None = None,
    on_remove: OnRemove = "auto",
) -> Handoff:
    """Receive a userfaultfd from the target at the other end of a unix stream socket.

    Args:
        sock: A connected unix stream socket.
        source: The source of all regions. Each region begins at the offset that the sender names.
        mode: The mode in which the sender registered the regions (see ``Region``). None takes the mode of the message,
            or ``"missing"``.
        on_remove: See ``Region``.

    Returns:
        The arguments of ``serve()``.

    Raises:
        TimeoutError: No complete message came within 10 seconds.
        ValueError: The message is not a hand-off. The error names the field.
        ConnectionError: The sender closed the connection.
    """
    check_instance("sock", sock, socket.socket)
    check_source("source", source, optional=True)
    if mode is not None:
        check_word("mode", mode, get_args(Mode))
    check_word("on_remove", on_remove, get_args(OnRemove))
    text, fds, pid = _receive_message(sock)
    try:
        if len(fds) != 1:
            raise ValueError(f"a hand-off has one descriptor, but {len(fds)} came: send it with pyuffd.handoff.send")
        entries = _parse(text)
        options: _Options = {"mode": mode, "on_remove": on_remove}
        regions = [_region(index, entry, source, options) for index, entry in enumerate(entries)]
        uffd = Userfaultfd.adopt(fds.pop())
    finally:
        for fd in fds:
            os.close(fd)
    return Handoff(uffd, regions, pid or _peer_pid(sock))


def _receive_message(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """Read until the text is a whole JSON value, because a stream can cut the message anywhere."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    room = socket.CMSG_SPACE(16 * array.array("i").itemsize) + socket.CMSG_SPACE(_CREDENTIALS.size)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    before = sock.gettimeout()
    text, fds, pid = b"", [], 0
    try:
        while True:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            part, ancillary, _, _ = sock.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
            fds += [fd for message in ancillary for fd in _descriptors(message)]
            pid = next((_sender(message) for message in ancillary if _sender(message)), pid)
            if not part:
                raise ConnectionError("the sender closed the connection before its hand-off was complete")
            text += part
            if len(text) > _MOST_BYTES:
                raise ValueError(
                    f"a hand-off has at most {_MOST_BYTES} bytes, but this one is longer: send fewer regions"
                )
            if _is_whole(text):
                return text, fds, pid
            if time.monotonic() > deadline:
                raise TimeoutError(f"no complete hand-off came within {_DEADLINE_SECONDS:.0f} seconds")
    except BaseException:
        for fd in fds:
            os.close(fd)
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


def _sender(message: tuple[int, int, bytes]) -> int:
    level, kind, data = message
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
        return 0
    pid: int = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
    return pid


def _is_whole(text: bytes) -> bool:
    """Whether the last bracket of the array came. The content is checked afterwards."""
    return text.rstrip().endswith(b"]") or not text.lstrip().startswith(b"[")


def _parse(text: bytes) -> list[Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
        raise ValueError(f"a hand-off is one JSON array, but this text is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError("a hand-off is one JSON array of at least one region: send it with pyuffd.handoff.send")
    return entries


def _region(index: int, entry: Any, source: Source | None, options: _Options) -> Region:
    if not isinstance(entry, dict):
        raise ValueError(f"region {index} of the hand-off is not a JSON object")
    # Firecracker before 1.12 sends only page_size_kib. In spite of its name, this field is in bytes, too.
    page_size = "page_size" if "page_size" in entry else "page_size_kib"
    try:
        return Region(
            _number(entry, "base_host_virt_addr"),
            _number(entry, "size"),
            source,
            _number(entry, "offset"),
            _number(entry, page_size),
            mode=_mode(entry, options["mode"]),
            on_remove=options["on_remove"],
        )
    except ValueError as error:
        raise ValueError(f"region {index} of the hand-off: {error}") from None


def _mode(entry: dict[str, Any], expected: Mode | None) -> Mode:
    """Return the mode of a region. If the message names no mode, as those of Firecracker, return the expected mode."""
    mode: Mode = entry.get("mode", expected or "missing")
    if expected not in (None, mode):
        raise ValueError(f"mode is {mode!r}, but receive() was told {expected!r}: leave mode out")
    return mode


def _number(entry: dict[str, Any], field: str) -> int:
    value = entry.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{field} is {value!r}; it must be a number of bytes between 0 and 2**64 - 1")
    return value


def _peer_pid(sock: socket.socket) -> int:
    """Return the pid of the process that connected. A sender such as Firecracker sends no credentials."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(data)[0]
    if pid in (0, os.getpid()):
        raise ValueError(
            "the sender's pid is not known: the hand-off came without SCM_CREDENTIALS, and SO_PEERCRED names this "
            "process or none. The sender must connect to a listening socket, or use pyuffd.handoff.send"
        )
    return pid
