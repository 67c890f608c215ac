"""A manager in a process of its own that is killed, for questions about what comes after.

This file is also what the process runs.
"""

import array
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType

import pyuffd
from pyuffd.handoff import Handoff

from .axes import PAGE


class DoomedManager:
    """Serves what it is given, with a guard that waits, until it is killed.

    Args:
        path: Of the file from which it serves.
    """

    def __init__(self, path: str) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, path, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        if self._sock.recv(1) != b"r":
            raise RuntimeError("the manager did not begin")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def serve(self, handoff: Handoff) -> None:
        """Have it serve a target, whose userfaultfd it has alone from then on."""
        regions = [[region.start, region.length, region.source_offset] for region in handoff.regions]
        rights = array.array("i", [handoff.uffd.fileno()]).tobytes()
        message = json.dumps({"pid": handoff.pid, "regions": regions}).encode()
        self._sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        handoff.uffd.close()
        if self._sock.recv(1) != b"s":
            raise RuntimeError("the manager does not serve")

    def kill(self) -> float:
        """Kill it, and wait for its end.

        Returns:
            When it was killed, on the clock of ``time.monotonic()``.
        """
        killed = time.monotonic()
        self._process.kill()
        self._process.wait()
        return killed

    def __enter__(self) -> "DoomedManager":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._sock.close()


def main(arguments: Sequence[str]) -> None:
    """Be the process."""
    path, fd = arguments
    source = pyuffd.FileSource(path)
    with socket.socket(fileno=int(fd)) as sock:
        manager = pyuffd.Manager(handlers=1)
        sock.send(b"r")
        while True:
            text, ancillary, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            if not text:
                os._exit(0)
            (received,) = array.array("i", ancillary[0][2])
            told = json.loads(text)
            regions = [pyuffd.Region(start, length, source, at, PAGE) for start, length, at in told["regions"]]
            manager.add(pyuffd.Userfaultfd.adopt(received), regions, pid=told["pid"], guard="manager")
            sock.send(b"s")


if __name__ == "__main__":
    main(sys.argv[1:])
