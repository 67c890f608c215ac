"""How a target waits until nothing of it is missing: on the connection of its hand-off."""

import json
import socket
import time
from dataclasses import dataclass

from pyuffd._arguments import check_instance, check_seconds

_LONGEST_LINE = 1024


@dataclass(frozen=True)
class Completion:
    """What the manager tells a target of which nothing is missing any more.

    Attributes:
        ending: How the manager let go: ``"early-close"`` or ``"unregister"``; ``"keep-open"`` if the userfaultfd is
            still open.
        poisoned_bytes: How much memory is poisoned, because its source could not supply it.
    """

    ending: str
    poisoned_bytes: int


def wait_complete(sock: socket.socket, timeout: float | None = None) -> Completion:
    """Wait in the target until nothing of its memory is missing, after ``send(..., completion=True)``.

    For example, a snapshot of the target that is taken afterwards has all of its memory. The manager must have passed
    ``Handoff.completion`` to ``serve()``, as ``pyuffd serve`` does. A manager that takes the target over tells, too.

    Args:
        sock: The socket on which the target handed its memory over.
        timeout: Seconds; None waits without a limit.

    Returns:
        What the manager told.

    Raises:
        TimeoutError: Pages are still missing. Another call waits on.
        ConnectionError: Nobody serves the target any more, and pages are missing: the manager died, or closed the
            target. Or the manager does not tell.
    """
    check_instance("sock", sock, socket.socket)
    check_seconds("timeout", timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    before = sock.gettimeout()
    try:
        line = _read_line(sock, deadline)
    finally:
        sock.settimeout(before)
    try:
        told = json.loads(line)
        return Completion(str(told["ending"]), int(told["poisoned_bytes"]))
    except (ValueError, TypeError, KeyError):
        raise ConnectionError(f"the manager told {line[:80]!r}, which is not of this version of pyuffd") from None


def _read_line(sock: socket.socket, deadline: float | None) -> bytes:
    """The manager sends its line at once, so that a part of one is none."""
    sock.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-6))
    try:
        line = sock.recv(_LONGEST_LINE)
    except TimeoutError:
        raise TimeoutError("pages are still missing: wait longer, or have the manager fill") from None
    if not line:
        raise ConnectionError("the manager hung up: it died, or it let go of the target with pages missing")
    return line
