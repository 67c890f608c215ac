"""A target process that does to its memory what it is told, step by step, and what it forks does too.

``Puppet`` is the end that tells; the process is a ``Child`` that runs ``_obey()``. They talk by one line of JSON each
way, over a socket, so that what it forks can be told, too. Nobody else touches its memory: its own Python lies
elsewhere. A step that does not come back within the limit fails the test that asked for it, and the processes are
killed.
"""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import pyuffd
from pyuffd import _workload, handoff
from support.child import Child

PAGE = mmap.PAGESIZE
LIMIT = 20.0

_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_HUGETLB = 1, 2, 0x10, 0x20, 0x40000


class GoneError(Exception):
    """The process ended instead of answering."""


class Puppet:
    """The end that tells a process, and hears from it."""

    def __init__(self, sock: socket.socket, pid: int, child: Child | None, limit: float = LIMIT) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self.pid = pid
        self._child = child
        self._limit = limit
        sock.settimeout(limit)

    @classmethod
    def start(cls, limit: float = LIMIT) -> "Puppet":
        """Start a process; every answer of it, and of what it forks, must come within the limit."""
        ours, theirs = socket.socketpair()
        with theirs:
            child = Child(_obey, theirs.fileno(), sockets=[theirs], limit=None)
        return cls(ours, child.pid, child, limit)

    def post(self, step: str, *arguments: Any) -> None:
        """Tell it a step without waiting for the answer, which ``answer()`` hears."""
        try:
            self._sock.sendall(json.dumps([step, *arguments]).encode() + b"\n")
        except BrokenPipeError:
            raise GoneError(self.pid) from None

    def answer(self) -> Any:
        """Hear what the last step gave."""
        try:
            line = self._file.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            raise GoneError(self.pid)
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return answer["result"]

    def do(self, step: str, *arguments: Any) -> Any:
        """Tell it a step; what that gave."""
        self.post(step, *arguments)
        return self.answer()

    def fork(self) -> "Puppet":
        """Have it fork; the child is a puppet too."""
        with listening() as (name, accept):
            pid = self.do("fork", name)
            return Puppet(accept(), pid, None, self._limit)

    def hand_over(
        self,
        regions: Sequence[tuple[int, int, int, int]],
        source: pyuffd.Source | None,
        features: int = 0,
        mode: handoff.Mode = "missing",
        *,
        keep: bool = False,
        register: bool = True,
        completion: bool = False,
        **options: Any,
    ) -> handoff.Handoff:
        """Have it hand its memory over.

        Regions, keep, register and completion are those of ``handoff.send()``, options those of ``handoff.receive()``.
        One that keeps its userfaultfd may ``register`` memory later, and ``steal`` messages.
        """
        with listening() as (name, accept):
            self.post("hand_over", name, regions, features, mode, keep, register, completion)
            with accept() as sock:
                received = handoff.receive(sock, source, mode=mode, **options)
                self.answer()
        return received

    def hand_over_again(self, regions: Sequence[tuple[int, int, int, int]], source: pyuffd.Source) -> handoff.Handoff:
        """Have it hand over again what it kept, because its manager has died."""
        with listening() as (name, accept):
            self.post("hand_over_again", name, regions)
            with accept() as sock:
                received = handoff.receive(sock, source)
                self.answer()
        return received

    def kill(self) -> None:
        """End it, and all that it forked when it is the first."""
        if self._child:
            self._child.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> "Puppet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if self._child:
            self._child.__exit__(kind, error, traceback)
        self._file.close()
        self._sock.close()


# What follows runs in the process.

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _checked(result: int | None) -> int:
    if result is None or result in (-1, (1 << 64) - 1):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Marionette:
    """The process's side: one method for each step."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self._fd = -1

    def run(self) -> None:
        for line in iter(self._file.readline, b""):
            step, *arguments = json.loads(line)
            try:
                answer = {"result": getattr(self, step)(*arguments)}
            except OSError as error:
                answer = {"error": [error.errno, str(error)]}
            self._sock.sendall(json.dumps(answer).encode() + b"\n")

    def map(self, length: int, kind: str, at: int = 0) -> int:
        """Map zeroed memory: anonymous, shared, memfd, memfd-private, hugetlb, hugetlb-memfd or thp."""
        flags = _MAP_FIXED if at else 0
        fd = -1
        if "memfd" in kind:
            huge = kind.startswith("hugetlb")
            self._fd = fd = os.memfd_create("puppet", os.MFD_CLOEXEC | (os.MFD_HUGETLB if huge else 0))
            os.ftruncate(fd, length)
            flags |= _MAP_PRIVATE if kind.endswith("private") else _MAP_SHARED
        else:
            flags |= _MAP_ANONYMOUS | (_MAP_SHARED if kind == "shared" else _MAP_PRIVATE)
            flags |= _MAP_HUGETLB if kind == "hugetlb" else 0
        address = _checked(_libc.mmap(at, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0))
        if kind == "thp":
            _checked(_libc.madvise(address, length, mmap.MADV_HUGEPAGE))
        return address

    def write_file(self, offset: int, text: str) -> None:
        """Write to the memfd that was mapped last, past the mapping."""
        data = bytes.fromhex(text)
        with mmap.mmap(self._fd, 0) as alias:
            alias[offset : offset + len(data)] = data

    def hand_over(
        self,
        name: str,
        regions: Sequence[Sequence[int]],
        features: int,
        mode: handoff.Mode,
        keep: bool,
        register: bool,
        completion: bool = False,
    ) -> None:
        """Hand the memory over to whoever listens there."""
        uffd = pyuffd.Userfaultfd(features)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(name if name.startswith("/") else "\0" + name)
            handoff.send(sock, uffd, [(a, b, c, d) for a, b, c, d in regions], keep, register, mode, completion)
            if completion:
                self._connection = sock.dup()
        if keep:
            self._kept = uffd

    def hand_over_again(self, name: str, regions: Sequence[Sequence[int]]) -> None:
        """Hand over what was kept, which another manager has served."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect("\0" + name)
            handoff.send(sock, self._kept, [(a, b, c, d) for a, b, c, d in regions], True, False, again=True)

    def wait_complete(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until nothing of what was handed over is missing."""
        return asdict(handoff.wait_complete(self._connection, timeout))

    def register(self, address: int, length: int, mode: handoff.Mode) -> None:
        """Register memory with the userfaultfd that was kept."""
        self._kept.register(address, length, handoff.REGISTER_MODES[mode])

    def steal(self, blocking: bool) -> None:
        """Have a thread read the messages of the userfaultfd that was kept, and do nothing about them."""
        fd = self._kept.fileno()
        os.set_blocking(fd, blocking)
        self._stealing = True
        self._stolen = 0
        self._thief = threading.Thread(target=self._steal_on, args=(fd,), daemon=True)
        self._thief.start()

    def _steal_on(self, fd: int) -> None:
        message = bytearray(32)  # of struct uffd_msg
        while self._stealing:
            with contextlib.suppress(BlockingIOError):
                os.preadv(fd, [message], -1, os.RWF_NOWAIT)
                self._stolen += 1

    def touch_beside_thief(self, address: int, length: int, page: int, most: int | None = None) -> None:
        """Have one thread after the other touch a page, each when that of the one before it came or was stolen from.

        Once the thief has as many messages as it is to have at most, nobody touches any more.
        """
        self._robbed = []
        for start in range(address, address + length, page):
            before = self._stolen
            if before == most:
                break
            toucher = _workload.Toucher([(start, page)], page_size=page, timeline_bins=1)
            toucher.start()
            self._robbed.append(toucher)
            while toucher.running() and self._stolen == before:
                os.sched_yield()

    def end_stealing(self) -> int:
        """Have the thief end, and those that it stole from be served; how many messages it has."""
        self._stealing = False
        self._thief.join()
        for toucher in self._robbed:
            toucher.join()
        return self._stolen

    def read(self, address: int, length: int) -> str:
        return ctypes.string_at(address, length).hex()

    def write(self, address: int, text: str) -> None:
        data = bytes.fromhex(text)
        ctypes.memmove(address, data, len(data))

    def write_each(self, address: int, length: int, stride: int) -> None:
        """Write a byte at every stride."""
        for place in range(address, address + length, stride):
            ctypes.memset(place, 1, 1)

    def checksums(self, address: int, length: int, page: int) -> list[int]:
        """Read whole pages; a checksum of each."""
        return [int(total) for total in _workload.checksums(address, length, page)]

    def begin_touches(self, address: int, length: int, page: int, options: dict[str, Any]) -> None:
        """Have threads touch the pages; options as of ``Toucher``."""
        if "checksums" in options:
            options["checksums"] = np.array(options["checksums"], dtype=np.uint64)
        self._toucher = _workload.Toucher([(address, length)], page_size=page, timeline_bins=10, **options)
        self._toucher.start()

    def touching(self) -> bool:
        """Whether some thread has not touched all of its pages."""
        return self._toucher.running()

    def end_touches(self) -> tuple[int, list[int]]:
        """Wait for the threads: how often they touched a page, and the addresses where they met wrong bytes."""
        touches = self._toucher.join()
        return touches.touched, touches.wrong_addresses

    def readable(self, address: int) -> bool:
        """A kernel access, which sleeps for a missing page; False for poisoned memory."""
        reader, writer = os.pipe()
        try:
            return bool(_libc.write(writer, address, 1) == 1)
        finally:
            os.close(reader)
            os.close(writer)

    def advise(self, address: int, length: int, advice: int) -> None:
        _checked(_libc.madvise(address, length, advice))

    def unmap(self, address: int, length: int) -> None:
        _checked(_libc.munmap(address, length))

    def move(self, address: int, length: int, new_length: int, to: int = 0, keep: bool = False) -> int:
        """mremap(2): to a fixed place if there is one, and keeping the old with MREMAP_DONTUNMAP."""
        flags = _MREMAP_MAYMOVE | (_MREMAP_FIXED if to else 0) | (_MREMAP_DONTUNMAP if keep else 0)
        return _checked(_libc.mremap(address, length, new_length, flags, to))

    def unmap_each(self, address: int, length: int, page: int) -> None:
        """Unmap the pages one by one."""
        for start in range(address, address + length, page):
            _checked(_libc.munmap(start, page))

    def wander(self, address: int, length: int, places: int, count: int) -> int:
        """Move memory that many times, each time to a place where it never was; where it is in the end."""
        for place in range(places, places + count * length, length):
            address = self.move(address, length, length, place)
        return address

    def fork(self, name: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            self._file.close()
            self._sock.close()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect("\0" + name)
            _Marionette(sock).run()
        finally:
            os._exit(0)

    def is_registered(self, address: int) -> bool:
        """Whether the mapping at an address is registered with a userfaultfd."""
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                start, end = (int(part, 16) for part in words[0].split("-"))
                inside = start <= address < end
            elif inside and words[0] == "VmFlags:":
                return bool({"um", "uw", "ui"} & set(words))
        return False

    def reap(self, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def brood(self, count: int, address: int, text: str) -> None:
        """Fork that many children, which wait for the harvest and read this memory then."""
        told, self._gate = os.pipe()
        self._brood = []
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                os.close(self._gate)
                os.read(told, 1)
                os._exit(0 if self.read(address, len(text) // 2) == text else 2)
            self._brood.append(pid)
        os.close(told)

    def harvest(self) -> list[int]:
        """Let the brood end: 0 for each that read its text, -SIGBUS for poisoned memory, 2 for anything else."""
        os.close(self._gate)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self._brood]

    def breed(self, seconds: float, most: int) -> int:
        """Fork children one after the other, of which so many live at a time; how many there were."""
        forked = 0
        living: list[int] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if len(living) == most:
                os.kill(living[0], signal.SIGKILL)
                os.waitpid(living.pop(0), 0)
            pid = os.fork()
            if pid == 0:
                signal.pause()
            living.append(pid)
            forked += 1
        for pid in living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return forked

    def leave(self) -> None:
        """Exit, without an answer."""
        os._exit(0)

    def execute(self) -> None:
        """Become another program, which sleeps."""
        os.execv("/bin/sleep", ["sleep", "100"])


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, Callable[[], socket.socket]]]:
    """An abstract unix socket: its name, and how to accept one connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT)
        sock.bind(b"")  # the kernel gives it a name
        sock.listen()
        name = sock.getsockname()[1:].decode()
        yield name, lambda: sock.accept()[0]


def _obey(fd: int) -> None:
    """What the process runs."""
    _Marionette(socket.socket(fileno=fd)).run()
