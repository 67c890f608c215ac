"""An imitation of ``criu restore --lazy-pages``: what it does to a lazy-pages daemon and to the memory of its tasks.

It follows CRIU 4.2 (criu/uffd.c, criu/cr-restore.c, criu/pie/restorer.c): the tree is forked first; each task maps its
memory, opens its userfaultfd and sends it over the one connection, under a mutex; it registers whole mappings only
afterwards, and closes its own descriptor; when all have arrived the restore sends its marker, and the tasks go on. Then
each task does to its memory what its steps say, and compares every byte with what was saved. It imitates no more than
that: real restores are tried elsewhere.
"""

import array
import contextlib
import ctypes
import json
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import socket
import struct
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyuffd
from pyuffd.criu import schema
from support.child import Child
from support.criu_images import PAGE, PRIVATE_ANONYMOUS, Imitated, Mapped, Written
from support.state import until

MARKER = 0x52535446
BASE = 0x10000000000  # where no mapping of a Python process is
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
_FIXED, _MAYMOVE, _DONTNEED = 0x100000, 1, 4  # MAP_FIXED_NOREPLACE, MREMAP_MAYMOVE, MADV_DONTNEED

Step = Sequence[Any]


@dataclass
class Plan:
    """What is restored, and what the tasks do then.

    Attributes:
        work: The folder of the socket.
        tasks: Those of the images.
        pages: The bytes that pages must have, by pid and address; others are zeros.
        steps: What each task does after the restore: ``["touch"]`` compares all pages, in a random order,
            ``["look", address]`` one; ``["drop",
            start, length]``, ``["move", start, length, to]``, ``["unmap", start, length]``, ``["fork"]`` a child that
            compares, ``["exec"]``, ``["die"]``, ``["exit"]``.
        delays: Seconds before a step of the restore: connected, pid, descriptor, registers, marker, steps.
        ends_at: The step at which the restore dies instead. Its tasks die with it, as by CRIU's hand, unless that step
            is ``marker``, or ``early``: before any task has registered memory.
        pieces: Whether it sends each byte by itself.
    """

    work: Path
    tasks: Sequence[Imitated]
    pages: dict[tuple[int, int], bytes]
    steps: dict[int, Sequence[Step]] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    ends_at: str | None = None
    pieces: bool = False

    def reach(self, step: str) -> None:
        """Come to a step of the restore: wait as long as is asked for, or die."""
        time.sleep(self.delays.get(step, 0.0))  # the delay is what is tested
        if step == self.ends_at:
            os.killpg(0, signal.SIGKILL)


class Restoration:
    """A restore that runs in processes of its own."""

    def __init__(self, written: Written, tasks: Sequence[Imitated], work: Path, **options: Any) -> None:
        self.plan = Plan(work, tasks, written.pages, **options)
        path = work / "plan.pickle"
        path.write_bytes(pickle.dumps(self.plan))
        self._child = Child(restore, path)

    def reports(self, expected: int = 0) -> dict[int, dict[str, Any]]:
        """Wait until nobody is left; what each task found, by pid. Fork children are in those of their parents."""
        with self._child:
            self._child.outcome()  # of all who have its stdout
            self._child.finish(expected)
        lines = (self.plan.work / "reports").read_text().splitlines()
        return {report["pid"]: report for report in map(json.loads, lines)}


def restore(path: str) -> None:
    """Restore; the reports of all tasks are told."""
    plan: Plan = pickle.loads(Path(path).read_bytes())
    Restore(plan).run()


class Restore:
    """The restoring process, and what its tasks share."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.pid = plan, os.getpid()
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(os.fspath(plan.work / "lazy-pages.socket"))
        self.mutex = multiprocessing.get_context("fork").Lock()
        self.arrived, self.arrives = os.pipe()
        self.go, self.goes = os.pipe()
        self.reports = os.open(plan.work / "reports", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def run(self) -> None:
        self.plan.reach("connected")
        roots = [task for task in self.plan.tasks if task.ppid not in {other.pid for other in self.plan.tasks}]
        for task in roots:
            self.fork(task)
        os.close(self.arrives)
        for _ in self.plan.tasks:
            os.read(self.arrived, 1)
        if self.plan.ends_at == "marker":
            os._exit(3)
        self.plan.reach("marker")
        self.connection.sendall(struct.pack("=I", MARKER))
        (self.plan.work / "marked").touch()
        self.connection.close()
        os.close(self.goes)
        for _ in roots:
            os.wait()

    def children_of(self, task: Imitated) -> list[Imitated]:
        return [other for other in self.plan.tasks if other.ppid == task.pid]

    def fork(self, task: Imitated) -> None:
        if os.fork():
            return
        code = 1
        try:
            if self.goes >= 0:
                os.close(self.goes)
            self.goes = -1
            for child in self.children_of(task):
                self.fork(child)
            RestoredTask(self, task).live()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def tell(self, report: dict[str, Any]) -> None:
        os.write(self.reports, json.dumps(report).encode() + b"\n")


_libc = ctypes.CDLL(None, use_errno=True)
for _name in ("mmap", "mremap"):
    getattr(_libc, _name).restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]


def _checked(result: int | None) -> None:
    if result in (-1, None, 2**64 - 1):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class RestoredTask:
    """A task: it restores itself, and then does its steps."""

    def __init__(self, shared: Restore, task: Imitated) -> None:
        self._shared, self._plan, self._task = shared, shared.plan, task
        self._pages = {
            at: self._plan.pages.get((task.pid, at), bytes(PAGE))
            for mapped in task.mapped
            for at in range(mapped.start, mapped.start + mapped.length, PAGE)
        }
        self._children: list[int] = []
        self._random = random.Random(task.pid)
        self._found: dict[str, Any] = {"pid": task.pid, "checked": 0, "wrong": 0, "poisoned": 0}

    def live(self) -> None:
        plan = self._plan
        if not self._task.mapped:
            with self._shared.mutex:
                self._send(struct.pack("=i", -self._task.pid))
            self._arrive()
            self._shared.tell(self._found)
            return
        for mapped in self._task.mapped:
            flags = PRIVATE_ANONYMOUS | _FIXED
            _checked(_libc.mmap(mapped.start, mapped.length, _PROTECTION, flags, -1, 0))
        self._install_eager()
        uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENTS)
        with self._shared.mutex:
            plan.reach("pid")
            self._send(struct.pack("=i", self._task.pid))
            plan.reach("descriptor")
            rights = array.array("i", [uffd.fileno()]).tobytes()
            self._shared.connection.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        if plan.ends_at == "early":
            os.kill(self._shared.pid, signal.SIGKILL)
            until(lambda: os.getppid() != self._shared.pid or bool(self._task.ppid), "its end")
        plan.reach("registers")
        for mapped in self._task.mapped:
            if _is_lazy(mapped):
                uffd.register(mapped.start, mapped.length)
        uffd.close()
        self._arrive()
        os.read(self._shared.go, 1)  # its end
        plan.reach("steps")
        for name, *arguments in plan.steps.get(self._task.pid, [["touch"]]):
            getattr(self, f"_{name}")(*arguments)
        self._found["children"] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self._children]
        self._shared.tell(self._found)

    def _arrive(self) -> None:
        os.write(self._shared.arrives, b"x")
        os.close(self._shared.arrives)
        self._shared.connection.close()

    def _send(self, data: bytes) -> None:
        for part in [data[i : i + 1] for i in range(len(data))] if self._plan.pieces else [data]:
            self._shared.connection.sendall(part)

    def _install_eager(self) -> None:
        for saved in self._task.saved:
            if saved.kind in ("present", "parent"):
                for at in range(saved.start, saved.start + saved.length, PAGE):
                    ctypes.memmove(at, self._pages[at], PAGE)

    # The steps.

    def _touch(self) -> None:
        order = list(self._pages)
        self._random.shuffle(order)
        for at in order:
            if not _is_readable(at):
                self._found["poisoned"] += 1
            elif ctypes.string_at(at, PAGE) == self._pages[at]:
                self._found["checked"] += 1
            else:
                self._found["wrong"] += 1

    def _look(self, at: int) -> None:
        every, self._pages = self._pages, {at: self._pages[at]}
        self._touch()
        self._pages = every

    def _drop(self, start: int, length: int) -> None:
        _checked(_libc.madvise(start, length, _DONTNEED))
        for at in range(start, start + length, PAGE):
            self._pages[at] = bytes(PAGE)

    def _move(self, start: int, length: int, to: int) -> None:
        _checked(_libc.mremap(start, length, length, _MAYMOVE | 2, to))
        for at in range(start, start + length, PAGE):
            self._pages[to + at - start] = self._pages.pop(at)

    def _unmap(self, start: int, length: int) -> None:
        _checked(_libc.munmap(start, length))
        for at in range(start, start + length, PAGE):
            del self._pages[at]

    def _write(self, start: int) -> None:
        ctypes.memmove(start, b"written", 7)
        self._pages[start] = b"written" + self._pages[start][7:]

    def _fork(self) -> None:
        pid = os.fork()
        if pid:
            self._children.append(pid)
            return
        self._found = {"checked": 0, "wrong": 0, "poisoned": 0}
        with contextlib.suppress(BaseException):
            self._touch()
            os._exit(0 if self._found["checked"] == len(self._pages) else 9)
        os._exit(8)

    def _exec(self) -> None:
        self._shared.tell(self._found)
        os.execv("/bin/true", ["true"])

    def _die(self) -> None:
        self._shared.tell(self._found)
        os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self) -> None:
        self._shared.tell(self._found)
        os._exit(0)


def _is_lazy(mapped: Mapped) -> bool:
    return bool(mapped.flags & PRIVATE_ANONYMOUS == PRIVATE_ANONYMOUS and mapped.status & schema.VMA_ANON_PRIVATE)


def _is_readable(address: int) -> bool:
    """A kernel access, which waits for a missing page, and fails where it is poisoned."""
    reader, writer = os.pipe()
    try:
        return bool(_libc.write(writer, address, 1) == 1)
    finally:
        os.close(reader)
        os.close(writer)
