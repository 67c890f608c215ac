"""The program of a target in a process of its own.

It obeys the calls of a ``ChildTarget``, pickled over the first socket whose descriptor it is given, and hands its
userfaultfd over on the second. It exits when the first one ends.
"""

import io
import pickle
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any

from .target import LocalTarget


def _obey(calls: io.BufferedRWPair, sock: socket.socket) -> None:
    """Answer each call with (result, error text), for as long as the caller lives."""
    target = LocalTarget()
    while True:
        method, arguments, keywords = pickle.load(calls)
        if method in ("send", "send_each"):
            arguments = (sock, *arguments)
        pickle.dump(_answer(target, method, arguments, keywords), calls)
        calls.flush()


def _answer(target: LocalTarget, method: str, arguments: Any, keywords: Any) -> tuple[Any, str]:
    try:
        return getattr(target, method)(*arguments, **keywords), ""
    except Exception:
        return None, traceback.format_exc()


if __name__ == "__main__":
    _calls, _sock = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:])
    with suppress(EOFError, ConnectionError):
        _obey(_calls.makefile("rwb"), _sock)
