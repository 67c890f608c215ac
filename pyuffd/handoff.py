"""Hand a userfaultfd and its regions from a target to its manager over a unix socket.

The format is Firecracker's: one JSON array of ``base_host_virt_addr``, ``size``, ``offset`` and ``page_size`` (all in
bytes), with the descriptor in SCM_RIGHTS, in one message. A manager that uses this module can therefore serve
Firecracker snapshots. Messages of pyuffd also have a ``mode``, a ``completion`` if the target will call
``wait_complete()``, and ``again`` if another manager has served the target before. Other programs ignore these.
"""

import array
import json
import operator
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from pyuffd._arguments import check_count, check_flag, check_instance, check_source, check_word
from pyuffd._completion import Completion as Completion
from pyuffd._completion import wait_complete as wait_complete
from pyuffd._core import Region, Source, Userfaultfd
from pyuffd._flags import RegisterMode
from pyuffd._strangers import CREDENTIALS, check_descriptors, close_elsewhere, known_peer, receive_message

Mode = Literal["missing", "minor", "missing+minor", "missing+wp"]
OnRemove = Literal["auto", "keep", "zero", "poison"]

REGISTER_MODES: dict[str, RegisterMode] = {
    "missing": RegisterMode.MISSING,
    "minor": RegisterMode.MINOR,
    "missing+minor": RegisterMode.MISSING | RegisterMode.MINOR,
    "missing+wp": RegisterMode.MISSING | RegisterMode.WP,
}


class _Options(TypedDict):
    mode: Mode | None
    on_remove: OnRemove


@dataclass(frozen=True)
class Handoff:
    """What ``receive()`` returns: all arguments of ``serve()``.

    Attributes:
        uffd: The userfaultfd of the target.
        regions: The regions, which the sender has registered.
        pid: The process id of the target: the kernel's word, at the time when the message was sent.
        uid: The user id of the sender; None if the kernel did not tell it.
        gid: The group id of the sender; None if the kernel did not tell it.
        completion: A duplicate of the socket, if the sender will call ``wait_complete()``: pass it to ``serve()``, and
            close it. Else None.
        again: Whether another manager has served the target before: pass it to ``serve()``.
    """

    uffd: Userfaultfd
    regions: list[Region]
    pid: int
    uid: int | None = None
    gid: int | None = None
    completion: socket.socket | None = None
    again: bool = False


def send(
    sock: socket.socket,
    uffd: Userfaultfd,
    regions: Iterable[tuple[int, int, int, int]],
    keep: bool = False,
    register: bool = True,
    mode: Mode = "missing",
    completion: bool = False,
    again: bool = False,
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
        completion: Whether this process will call ``wait_complete()``. The message has it, and other programs ignore
            it.
        again: Whether a manager that is dead by now has served the userfaultfd. The message has it. Give
            ``register=False``, too.

    Raises:
        ValueError: A region has not four numbers, or the userfaultfd is closed.
        OSError: A region cannot be registered, or the socket fails. The userfaultfd is then still open, and the regions
            that this call registered are unregistered again.
    """
    check_instance("sock", sock, socket.socket)
    check_instance("uffd", uffd, Userfaultfd)
    check_flag("keep", keep)
    check_flag("register", register)
    check_flag("completion", completion)
    check_flag("again", again)
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
        flags = {"completion": completion, "again": again}
        told = {"mode": mode} | {name: True for name, flag in flags.items() if flag}
        _send_message(sock, uffd, entries, told)
    except BaseException:
        for start, length in registered:  # nobody serves them
            uffd.unregister(start, length)
            uffd.wake(start, length)
        raise
    if not keep:
        uffd.close()


def _send_message(
    sock: socket.socket, uffd: Userfaultfd, entries: list[tuple[int, ...]], of_each: dict[str, Any]
) -> None:
    names = ("base_host_virt_addr", "size", "offset", "page_size")
    text = json.dumps([dict(zip(names, entry, strict=True)) | of_each for entry in entries]).encode()
    credentials = CREDENTIALS.pack(os.getpid(), os.getuid(), os.getgid())
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
    max_bytes: int = 1 << 40,
    max_regions: int = 65536,
    window: tuple[int, int] | None = None,
) -> Handoff:
    """Receive a userfaultfd from the target at the other end of a unix stream socket.

    Args:
        sock: A connected unix stream socket.
        source: The source of all regions. Each region begins at the offset that the sender names. The sender can read
            every byte of the source, or of the window.
        mode: The mode in which the sender registered the regions (see ``Region``). None takes the mode of the message,
            or ``"missing"``.
        on_remove: See ``Region``.
        max_bytes: How many bytes all regions together may have.
        max_regions: How many regions there may be.
        window: (offset, length) in bytes of the part of the source that the sender may name. None is the whole source.

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
    limits = _Limits(max_bytes, max_regions, window)
    text, fds, sender = receive_message(sock)
    try:
        check_descriptors(fds)
        entries = _parse(text)
        limits.check(entries)
        options: _Options = {"mode": mode, "on_remove": on_remove}
        regions = [_region(index, entry, source, options) for index, entry in enumerate(entries)]
        uffd = Userfaultfd.adopt(fds.pop())
    finally:
        close_elsewhere(fds)
    pid, uid, gid = sender or known_peer(sock)
    completion = sock.dup() if entries[0].get("completion") is True else None
    return Handoff(uffd, regions, pid, uid, gid, completion, again=entries[0].get("again") is True)


class _Limits:
    """What a sender may ask for."""

    def __init__(self, max_bytes: int, max_regions: int, window: tuple[int, int] | None) -> None:
        self._max_bytes = check_count("max_bytes", max_bytes)
        self._max_regions = check_count("max_regions", max_regions)
        if window is not None:
            try:
                offset, length = map(operator.index, window)
            except (TypeError, ValueError):
                raise TypeError(f"window is {window!r}; it must be (offset, length) in bytes, or None") from None
            if offset < 0 or length <= 0:
                raise ValueError(f"window is {window!r}; offset must be at least 0, and length at least 1")
            window = offset, length
        self._window = window

    def check(self, entries: list[Any]) -> None:
        if len(entries) > self._max_regions:
            raise ValueError(f"the hand-off has {len(entries)} regions; max_regions permits {self._max_regions}")
        total = 0
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise ValueError(f"region {index} of the hand-off is not a JSON object")
            try:
                offset, size = _number(entry, "offset"), _number(entry, "size")
            except ValueError as error:
                raise ValueError(f"region {index} of the hand-off: {error}") from None
            total += size
            if self._window is None:
                continue
            first, length = self._window
            if offset < first or offset + size > first + length:
                raise ValueError(
                    f"region {index} of the hand-off asks for bytes {offset} to {offset + size} of the source; the "
                    f"window permits {first} to {first + length}"
                )
        if total > self._max_bytes:
            raise ValueError(f"the regions of the hand-off have {total} bytes; max_bytes permits {self._max_bytes}")


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
    if not isinstance(mode, str) or mode not in REGISTER_MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, REGISTER_MODES))}")
    if expected not in (None, mode):
        raise ValueError(f"mode is {mode!r}, but receive() was told {expected!r}: leave mode out")
    return mode


def _number(entry: dict[str, Any], field: str) -> int:
    value = entry.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{field} is {value!r}; it must be a number of bytes between 0 and 2**64 - 1")
    return value
