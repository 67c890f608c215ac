"""What happens to targets when their manager dies: where the guard awaits the next manager, and how that takes over."""

import array
import atexit
import contextlib
import errno
import math
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyuffd import _core
from pyuffd._arguments import check_seconds, check_source
from pyuffd._core import Source, Userfaultfd

if TYPE_CHECKING:
    from pyuffd._manager import Manager, Placement

# struct GuardMessage of csrc/engine/guard/protocol.hpp: kind, after, target, owner.
_MESSAGE = struct.Struct("=IIQQ")
_HEIRLOOM, _ALL, _TAKEN, _GIVE_UP = 5, 6, 7, 8

_listening: "dict[int, Path]" = {}  # by the process that listens: a fork child does not


def guard_path(pid: int | None = None) -> Path:
    """Return the path of the socket at which the guard of a manager awaits the next one (``guard="manager"``).

    The socket exists as soon as the manager serves a target with ``guard="manager"``.

    Args:
        pid: Of the manager's process; None is this process.
    """
    return _folder() / f"guard-{os.getpid() if pid is None else pid}.sock"


def _folder() -> Path:
    """Where sockets of this user lie; nobody else can enter it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime, "pyuffd")
    return Path("/run/pyuffd") if os.geteuid() == 0 else Path(tempfile.gettempdir(), f"pyuffd-{os.geteuid()}")


def _own_folder() -> Path:
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.lstat()
    if not folder.is_dir() or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise PermissionError(
            f"{folder} must be a folder that this user alone can enter: remove it, or set XDG_RUNTIME_DIR to another"
        )
    return folder


def await_next_manager(limit: float | None = None) -> None:
    """Have the guard of this process listen for the next manager. Idempotent; by any thread.

    Args:
        limit: How many seconds after the death of this process the guard waits. Then it poisons what is missing. None
            waits without a limit. Only the first call of a process chooses.
    """
    with _Begin.lock:
        if os.getpid() not in _listening:
            _listen(0 if limit is None else max(math.ceil(limit), 1))


class _Begin:
    """Held by the thread that begins to listen. A fork child, where no thread is left to do that, has its own."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        cls.lock = threading.Lock()


os.register_at_fork(after_in_child=_Begin.renew)


def _listen(seconds: int) -> None:
    path = _own_folder() / guard_path().name
    _remove_stale(path.parent)
    path.unlink(missing_ok=True)  # of a process that had this pid before
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        _core.guard_listen(listener.fileno(), seconds)
    _listening[os.getpid()] = path


def _remove_stale(folder: Path) -> None:
    """Remove the sockets at which nobody listens: a guard that ended after its manager leaves one."""
    for path in folder.glob("guard-*.sock"):
        pid = path.stem.removeprefix("guard-")
        if not pid.isdigit() or Path("/proc", pid).exists():
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, contextlib.suppress(OSError):
            probe.settimeout(0)
            if probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)


def _forget() -> None:
    """Remove the socket. At the exit no target is left."""
    path = _listening.pop(os.getpid(), None)
    if path:
        path.unlink(missing_ok=True)


atexit.register(_forget)


def take_over(
    address: "str | os.PathLike[str] | int",
    source: "Source | Sequence[Source]",
    *,
    handlers: int = 2,
    fillers: int = 1,
    placement: "Placement" = "auto",
    timeout: float | None = None,
) -> "Manager":
    """Serve the targets of a manager that has died, from what its guard knows of them.

    The guard of the manager, which served with ``guard="manager"``, holds the userfaultfds of its targets, and the
    ledger of each: which pages are installed, dropped and poisoned, and where they lie. If the manager still lives,
    this waits for its death. All sleeping threads wake up and fault once more.

    Args:
        address: The pid of the manager that died, or the path of its socket (``guard_path()``).
        source: The source of all regions; or the sources of the targets, in the order in which their regions named
            them. They must have the same bytes as before.
        handlers: See ``Manager``.
        fillers: See ``Manager``.
        placement: See ``Manager``.
        timeout: How many seconds to wait for the death of the manager, and for its guard; None waits without a limit.

    Returns:
        A manager that serves the targets. ``Manager.targets`` lists them.

    Raises:
        TimeoutError: The manager has not died in time.
        ConnectionError: Nobody listens at the address, or the guard refuses this user.
        ValueError: The address is this process's pid; a ledger is of another version of pyuffd, or damaged; or the
            targets need more sources.
        OSError: See ``serve()``. The guard then still holds the targets, for another try.
    """
    from pyuffd._manager import Manager

    manager = Manager(handlers, fillers, placement=placement)
    manager.take_over(address, source, timeout=timeout)
    return manager


@contextlib.contextmanager
def inherited(
    address: "str | os.PathLike[str] | int", timeout: float | None
) -> Iterator[tuple[list[Userfaultfd], list[int], list[int]]]:
    """Have the userfaultfds, ledgers and completions of a dead manager meanwhile; what is not taken is closed."""
    check_seconds("timeout", timeout)
    path = _path(address)
    with _connected(path, timeout) as guard, contextlib.ExitStack() as held:
        yield _inherit(guard, held)
        guard.send(_MESSAGE.pack(_TAKEN, 0, 0, 0))
        guard.recv(1)  # its end: the guard holds nothing any more
    path.unlink(missing_ok=True)


def checked_sources(source: "Source | Sequence[Source]") -> list[Source]:
    """Return a list of sources.

    Raises:
        TypeError: One is no source.
    """
    sources = [source] if isinstance(source, Source) else list(source)
    for number, each in enumerate(sources):
        check_source(f"source[{number}]" if len(sources) > 1 else "source", each)
    return sources


def give_up(address: "str | os.PathLike[str] | int", *, timeout: float | None = None) -> None:
    """Have the guard of a manager that has died poison what its targets miss, because no other manager will come.

    Args:
        address: See ``take_over()``.
        timeout: See ``take_over()``.

    Raises:
        TimeoutError: The manager has not died in time.
        ConnectionError: Nobody listens at the address, or the guard refuses this user.
    """
    check_seconds("timeout", timeout)
    path = _path(address)
    with _connected(path, timeout) as guard, contextlib.ExitStack() as held:
        _inherit(guard, held)
        held.close()
        guard.send(_MESSAGE.pack(_GIVE_UP, 0, 0, 0))
        guard.recv(1)  # its end: all is poisoned
    path.unlink(missing_ok=True)


def _path(address: "str | os.PathLike[str] | int") -> Path:
    if address == os.getpid():
        raise ValueError("a manager cannot take over from its own process: give the pid of the one that died")
    return guard_path(address) if isinstance(address, int) else Path(address)


def _connected(path: Path, timeout: float | None) -> socket.socket:
    guard = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        guard.settimeout(timeout)
        guard.connect(os.fspath(path))
    except OSError as error:
        guard.close()
        raise ConnectionError(
            error.errno,
            f"no guard listens at {path} ({error.strerror}). The manager must have served with guard='manager', "
            "and its guard ends with the last target. Give the pid of that manager, or its guard_path()",
        ) from None
    return guard


def _inherit(guard: socket.socket, held: contextlib.ExitStack) -> tuple[list[Userfaultfd], list[int], list[int]]:
    """Receive the descriptors of all targets; ``held`` closes what nobody takes. No completion is -1."""
    uffds: list[Userfaultfd] = []
    ledgers: list[int] = []
    completions: list[int] = []
    room = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    while True:
        try:
            message, ancillary, _, _ = guard.recvmsg(_MESSAGE.size, room, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise TimeoutError("the manager still serves its targets: give a longer timeout, or end it") from None
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        for fd in fds:
            held.callback(_close, fd)
        if len(message) != _MESSAGE.size:
            raise ConnectionError("the guard refuses this user, or has ended: take over as the manager's user, or root")
        kind, _, _, _ = _MESSAGE.unpack(message)
        if kind == _ALL:
            return uffds, ledgers, completions
        if kind != _HEIRLOOM or len(fds) not in (2, 3):
            raise ConnectionError("the guard is of another version of pyuffd")
        uffds.append(Userfaultfd.adopt(os.dup(fds[0])))
        held.callback(uffds[-1].close)  # unless a target has it
        ledgers.append(fds[1])
        completions.append(fds[2] if len(fds) == 3 else -1)


def _close(fd: int) -> None:
    os.close(fd)
