"""The sockets of a daemon: made with their permissions before anybody can connect, and who may connect."""

import contextlib
import os
import socket
import stat
from collections.abc import Collection
from pathlib import Path

from pyuffd._strangers import peer_of


class AddressError(OSError):
    """A path where no socket can be made, with what to do."""


def listen_at(path: Path, *, open_to_others: bool) -> socket.socket:
    """Listen at a path. A socket that nobody listens at any more is replaced.

    Args:
        path: Of the socket.
        open_to_others: Whether other users may connect; ``is_permitted()`` then decides.

    Raises:
        AddressError: Somebody listens there, or no socket can be there.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o666 if open_to_others else 0o600)  # nobody can connect before listen()
        listener.listen(128)
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        raise AddressError(error.errno, f"cannot listen at {path}: {why}") from None
    return listener


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise AddressError(f"{path} exists and is no socket: give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise AddressError(error.errno, f"cannot use {path}: {error.strerror}") from None
    raise AddressError(f"another daemon listens at {path}: stop it, or give another path ('pyuffd serve image' may "
                       "take its place with --replace)")  # fmt: skip


def is_permitted(connection: socket.socket, uids: Collection[int]) -> bool:
    """Whether a user may connect."""
    return peer_of(connection)[1] in uids


def remove(path: Path) -> None:
    """Remove the path of a socket."""
    with contextlib.suppress(OSError):
        path.unlink()
