"""Managers in processes of their own, which can be killed, and memory of a puppet that they serve."""

import contextlib
import json
import logging
import os
import random
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyuffd
from pyuffd import _workload, handoff
from support.child import Child, hear, tell
from support.memory import PAGE, random_bytes
from support.puppet import Puppet

PAGES = 64
SEED = 5


def manage(path: str, pages: int, options: dict[str, Any]) -> None:
    """Be the manager of what comes to a socket, and do what is told. Its source is random bytes, or the file image."""
    logging.basicConfig(level=logging.ERROR)
    if "on_sigterm" in options:
        pyuffd.on_sigterm(**options.pop("on_sigterm"))
    image = options.pop("image", None)
    source = _source(pages, image)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + path)
        listener.listen()
        tell("listening")
        targets = []
        server = pyuffd.Manager(1, guards=options.pop("guards", 1))
        heir = pyuffd.Manager()
        while (word := hear()) != "end":
            if word == "serve":
                targets.append(_serve_next(server, listener, source, options))
                tell(targets[-1].id)
            elif word == "serve what was received":
                targets.append(_serve_received(server, listener, source, options))
                tell(targets[-1].id)
            elif word == "fill":
                targets[-1].fill()
            elif word == "wait":
                targets[-1].wait(progress=False)
                report = targets[-1].close()
                tell([report.ending, report.verified, report.seconds])
            elif word == "close":
                tell(targets[-1].close(missing="fill").ending)
            elif word == "fork":
                tell(_fork_and_live_on())
            elif isinstance(word, int):
                taken = heir.take_over(word, source)
                targets += taken
                tell(len(taken))
            elif word == "exec":
                os.execv("/bin/sleep", ["sleep", "30"])
            elif word == "children":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, os.WNOHANG)
                    tell("it has children")
                    continue
                tell("none")


def _hang() -> bytes:
    threading.Event().wait()
    return b""


def _source(pages: int, image: str | None) -> pyuffd.Source:
    """The image; "hung" is a function that never returns but for page 0."""
    data = random_bytes(pages * PAGE, SEED)
    if image == "hung":
        return pyuffd.CallableSource(lambda at, length: data[:length] if at == 0 else _hang(), pages * PAGE)
    return pyuffd.FileSource(image) if image else pyuffd.MemorySource(data)


def _serve_next(
    server: pyuffd.Manager, listener: socket.socket, source: pyuffd.Source, options: dict[str, Any]
) -> pyuffd.Target:
    connection, _ = listener.accept()
    with connection:
        got = handoff.receive(connection, source)
    return server.add(got.uffd, got.regions, pid=got.pid, completion=got.completion, **options)


def _serve_received(
    server: pyuffd.Manager, listener: socket.socket, source: pyuffd.Source, options: dict[str, Any]
) -> pyuffd.Target:
    """Serve what the test has received, and gives away."""
    connection, _ = listener.accept()
    with connection:
        text, (fd,), _, _ = socket.recv_fds(connection, 65536, 1)
    told = json.loads(text)
    regions = [pyuffd.Region(start, length, source, offset) for start, length, offset in told["regions"]]
    return server.add(pyuffd.Userfaultfd.adopt(fd), regions, pid=told["pid"], **options)


def _fork_and_live_on() -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


class Manager(Child):
    """A manager in a process of its own, which can be killed."""

    def __init__(self, pages: int = PAGES, **options: Any) -> None:
        self.name = f"pyuffd-test-{os.getpid()}-{random.getrandbits(64):x}"
        super().__init__(manage, self.name, pages, {"fault_around": 1, **options})
        assert self.hear() == "listening"

    def __enter__(self) -> "Manager":
        return self

    def serve(self, puppet: Puppet, regions: Sequence[tuple[int, int, int, int]], **options: Any) -> int:
        """Serve memory of a puppet, and return the number of the target."""
        features, mode = options.get("features", 0), options.get("mode", "missing")
        keep, register = options.get("keep", False), options.get("register", True)
        completion = options.get("completion", False)
        self.tell("serve")
        puppet.do("hand_over", self.name, regions, int(features), mode, keep, register, completion)
        number: int = self.hear()
        return number

    def serve_received(self, received: handoff.Handoff) -> int:
        """Serve a target whose userfaultfd this process has, and closes."""
        told = {
            "pid": received.pid,
            "regions": [(each.start, each.length, each.source_offset) for each in received.regions],
        }
        self.tell("serve what was received")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\0" + self.name)
            socket.send_fds(sock, [json.dumps(told).encode()], [received.uffd.fileno()])
        received.uffd.close()
        number: int = self.hear()
        return number

    def take_over(self, manager: "Manager") -> int:
        """Take the targets of another one over, which is dead or dies, and return how many there were."""
        self.tell(manager.pid)
        number: int = self.hear()
        return number

    def halt(self) -> None:
        """Stop all its threads, until it dies."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def die(self, number: int = signal.SIGKILL) -> None:
        self.signal(number)
        self.finish(-number)


class Memory:
    """Memory of a puppet, with the bytes that it shall have."""

    page = PAGE

    def __init__(self, puppet: Puppet, pages: int = PAGES, kind: str = "anonymous") -> None:
        self.puppet = puppet
        self.pages = pages
        self.start: int = puppet.do("map", pages * PAGE, kind)
        self.sums = [int(each) for each in _workload.checksums_of(random_bytes(pages * PAGE, SEED), PAGE)]

    @property
    def regions(self) -> list[tuple[int, int, int, int]]:
        return [(self.start, self.pages * PAGE, 0, PAGE)]

    def touch(self, first: int, pages: int, puppet: Puppet | None = None) -> None:
        assert (puppet or self.puppet).do("checksums", self.start + first * PAGE, pages * PAGE, PAGE) == (
            self.sums[first : first + pages]
        )

    def states(self, puppet: Puppet | None = None, start: int = 0) -> list[str]:
        """Of each page: right, poisoned, zero or wrong. Sleeps for pages that are missing."""
        return [self._state(puppet or self.puppet, (start or self.start) + i * PAGE, i) for i in range(self.pages)]

    def _state(self, puppet: Puppet, address: int, page: int) -> str:
        if not puppet.do("readable", address):
            return "poisoned"
        found = puppet.do("checksums", address, PAGE, PAGE)[0]
        if found == self.sums[page]:
            return "right"
        return "zero" if found == int(_workload.checksums_of(bytes(PAGE), PAGE)[0]) else "wrong"


def guards_of(manager: int) -> list[int]:
    """The pids of the guards of a process, which holds a pidfd of each."""
    found = []
    for info in Path(f"/proc/{manager}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in info.read_text().splitlines():
                if line.startswith("Pid:") and comm(int(line.split()[1])) == "pyuffd-guard":
                    found.append(int(line.split()[1]))
    return sorted(found)


def guard_of(manager: int) -> int:
    """The pid of its only guard."""
    guards = guards_of(manager)
    assert len(guards) == 1, f"process {manager} has {len(guards)} guards"
    return guards[0]


def has_another_guard(manager: int, guard: int) -> bool:
    with contextlib.suppress(AssertionError):
        return guard_of(manager) != guard
    return False


def comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def has_ended(pid: int) -> bool:
    """Whether a guard is no more, or waits for whoever reaps it."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text()
        return " (pyuffd-guard) " not in state or " (pyuffd-guard) Z " in state
    return True


def holds_userfaultfd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return any("userfaultfd" in str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def holds_sleeper(pid: int, *, read: bool = False) -> bool:
    """Whether a thread sleeps for a page of a userfaultfd that a process holds; with ``read`` its fault was read."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        text = info.read_text()
        if "pending:" in text:
            pending, total = (int(text.split(f"{name}:")[1].split()[0]) for name in ("pending", "total"))
            if total > (pending if read else 0):
                return True
    return False
