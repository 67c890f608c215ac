"""The target: the address space whose memory is managed, and the threads that touch it."""

import ctypes
import mmap
import os
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import pyuffd
from pyuffd import _workload
from pyuffd.handoff import Handoff

from .axes import PAGE, REGION_MODES, Mode
from .memory import Range, count_vmas, map_anew, map_apart, map_private, unmap

_READ_BYTES = 8 << 20
_MARKER = 0x52535446.to_bytes(4, sys.byteorder)  # that a lazy restore has finished (criu/uffd.c)

Kind = Literal["fault", "mmap", "populate"]


@dataclass(frozen=True)
class Touched:
    """What the threads of a toucher or of bystanders did and saw: ``_workload.Touches``, which can be sent."""

    origin_ns: int
    seconds: float
    ended: float
    wrong_pages: int
    max_ns: int
    histogram: npt.NDArray[np.uint64]
    timeline_count: npt.NDArray[np.uint64]
    timeline_max_ns: npt.NDArray[np.uint64]
    timeline_histogram: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, touches: _workload.Touches) -> "Touched":
        """Copy what the threads noted; ``seconds`` is the longest thread's time, without the start of the others.

        ``ended`` is when the last thread was through, on the clock of ``time.monotonic()``.
        """
        return cls(
            origin_ns=touches.origin_ns,
            seconds=max(touches.thread_elapsed_ns) * 1e-9,
            ended=(touches.origin_ns + touches.elapsed_ns) * 1e-9,
            wrong_pages=touches.wrong_pages,
            max_ns=touches.max_ns,
            histogram=touches.histogram.copy(),
            timeline_count=touches.timeline_count.copy(),
            timeline_max_ns=touches.timeline_max_ns.copy(),
            timeline_histogram=touches.timeline_histogram.copy(),
        )


class LocalTarget:
    """Memory of this process, and the threads that touch it."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []
        self._unrelated: list[Range] = []
        self._toucher: _workload.Toucher | None = None
        self._bystanders: _workload.Bystanders | None = None

    def map(self, lengths: Sequence[int], mode: Mode = "missing") -> list[Range]:
        """Map fresh memory in place of the last, which gives faults of this mode; each range is a VMA of its own."""
        unmap(self.ranges)
        self.ranges = map_apart(lengths, cached=mode == "minor")
        if (vmas := count_vmas(self.ranges)) != len(lengths):
            raise RuntimeError(f"{len(lengths)} ranges were to be as many VMAs, but they are {vmas}")
        return self.ranges

    def renew(self) -> None:
        """Map fresh memory at the places of the last."""
        for start, length in self.ranges:
            map_anew(start, length)

    def map_file(self, path: str, length: int, copies: int) -> list[Range]:
        """Map a file's beginning privately, several times, in place of what was mapped."""
        unmap(self.ranges)
        self.ranges = []
        with Path(path).open("rb") as file:
            for _ in range(copies):
                start = map_private(file.fileno(), length)
                self.ranges.append((start, length))
        return self.ranges

    def send_each(self, sock: socket.socket, mode: Mode) -> None:
        """Hand each range over with a userfaultfd of its own: as many targets."""
        for start, length in self.ranges:
            uffd = pyuffd.Userfaultfd(user_mode_only=None)
            pyuffd.handoff.send(sock, uffd, [(start, length, 0, PAGE)], mode=REGION_MODES[mode])

    def write_to_each(self, pages: int) -> None:
        """Write to the first pages of each range."""
        for start, _ in self.ranges:
            _workload.native_touch(start, pages * PAGE, PAGE)

    def memory(self) -> tuple[int, int]:
        """Return the bytes that the ranges have for themselves, and those of page tables of this process."""
        anonymous, inside = 0, False
        starts = {start for start, _ in self.ranges}
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if line[0].islower() or line[0].isdigit():
                inside = int(line.split("-")[0], 16) in starts
            elif inside and line.startswith("Anonymous:"):
                anonymous += int(line.split()[1]) * 1024
        status = Path("/proc/self/status").read_text()
        return anonymous, int(status.split("VmPTE:")[1].split()[0]) * 1024

    def add_vmas(self, count: int) -> None:
        """Map that many pages, each a VMA of its own, which nobody manages; in place of the last."""
        unmap(self._unrelated)
        self._unrelated = map_apart([PAGE] * count) if count else []

    def fork(self) -> float:
        """Fork a child that exits at once, and wait for it.

        Returns:
            Seconds of the fork alone.
        """
        began = time.monotonic()
        child = os.fork()
        seconds = time.monotonic() - began
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return seconds

    def hand_over(
        self, source: pyuffd.Source, offsets: Sequence[int], mode: Mode = "missing", features: int = 0
    ) -> Handoff:
        """Return what a manager in this process serves: regions that are not registered yet."""
        regions = [
            pyuffd.Region(start, length, source, offset, mode=REGION_MODES[mode])
            for (start, length), offset in zip(self.ranges, offsets, strict=True)
        ]
        return Handoff(pyuffd.Userfaultfd(features, user_mode_only=None), regions, os.getpid())

    def send(self, sock: socket.socket, offsets: Sequence[int], mode: Mode = "missing", features: int = 0) -> None:
        """Hand the memory to a manager at the other end of the socket."""
        entries = [(start, length, offset, PAGE) for (start, length), offset in zip(self.ranges, offsets, strict=True)]
        uffd = pyuffd.Userfaultfd(features, user_mode_only=None)
        pyuffd.handoff.send(sock, uffd, entries, mode=REGION_MODES[mode])

    def restore_lazily(self, path: str, pid: int) -> float:
        """Do to a lazy-pages daemon what a restored task and ``criu restore`` do: send, register, and the marker.

        Args:
            path: Of the daemon's socket.
            pid: The task's, as the images have it.

        Returns:
            When the marker was sent, on the clock of ``time.monotonic()``.
        """
        uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENTS)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(pid.to_bytes(4, sys.byteorder))
            socket.send_fds(sock, [b"\0"], [uffd.fileno()])
            for start, length in self.ranges:
                uffd.register(start, length)
            uffd.close()
            sock.sendall(_MARKER)
            return time.monotonic()

    def prepare_touching(self, **plan: Any) -> None:
        """Make ready what ``touch_prepared()`` does; ``plan`` is that of ``_workload.Toucher``."""
        start, length = self.ranges[-1]
        self._first = _workload.Toucher([(start + length - PAGE, PAGE)], timeline_bins=1)
        self._toucher = _workload.Toucher(self.ranges, **plan)

    def touch_prepared(self) -> tuple[Touched, Touched]:
        """Touch the last page, and then all: what was seen of both."""
        self._first.start()
        first = self._first.join()
        self.start_prepared()
        return Touched.of(first), self.finish_touching()

    def start_prepared(self) -> None:
        """Start what is ready."""
        if self._toucher is None:
            raise RuntimeError("nothing is ready: call prepare_touching() first")
        self._toucher.start()

    def restore_and_touch(self, path: str, pid: int) -> tuple[float, Touched, Touched]:
        """``restore_lazily()``, and ``touch_prepared()`` at once."""
        marked = self.restore_lazily(path, pid)
        return (marked, *self.touch_prepared())

    def start_touching(self, ranges: Sequence[Range] | None = None, **plan: Any) -> None:
        """Start threads that touch the ranges, by default all memory; ``plan`` is that of ``_workload.Toucher``."""
        self._toucher = _workload.Toucher(self.ranges if ranges is None else ranges, **plan)
        self._toucher.start()

    def finish_touching(self, *, stop: bool = False) -> Touched:
        """Wait until they are through, or stop them now."""
        if self._toucher is None:
            raise RuntimeError("nobody touches: call start_touching() first")
        if stop:
            self._toucher.stop()
        touches = self._toucher.join()
        self._toucher = None
        return Touched.of(touches)

    def touch(self, ranges: Sequence[Range] | None = None, **plan: Any) -> Touched:
        """Touch the ranges once and wait for that."""
        self.start_touching(ranges, **plan)
        return self.finish_touching()

    def start_bystanders(self, kind: Kind, **plan: Any) -> None:
        """Start threads that work on other memory; ``plan`` is that of ``_workload.Bystanders``."""
        self._bystanders = _workload.Bystanders(kind, **plan)
        self._bystanders.start()

    def stop_bystanders(self) -> Touched:
        """Stop them and return what they saw."""
        if self._bystanders is None:
            raise RuntimeError("there are no bystanders: call start_bystanders() first")
        touches = self._bystanders.stop()
        self._bystanders = None
        return Touched.of(touches)

    def read_file(self, path: str, offsets: Sequence[int], threads: int = 1) -> float:
        """Read the file's bytes at the offsets into the ranges, by pread(2) alone, shared evenly among threads.

        Returns:
            Seconds.
        """
        pieces = [
            (start + at, offset + at, min(_READ_BYTES, length - at))
            for (start, length), offset in zip(self.ranges, offsets, strict=True)
            for at in range(0, length, _READ_BYTES)
        ]
        with Path(path).open("rb") as file, ThreadPoolExecutor(threads) as pool:
            began = time.monotonic()
            for done in [pool.submit(_read_all, file.fileno(), pieces[part::threads]) for part in range(threads)]:
                done.result()
            return time.monotonic() - began

    def touch_natively(self) -> float:
        """Touch all memory for the first time, with nobody to serve it.

        Returns:
            Seconds.
        """
        return sum(_workload.native_touch(start, length, PAGE) for start, length in self.ranges) * 1e-9

    def sum_memmap(self, path: str, length: int) -> float:
        """Read one byte of each page of a np.memmap of the file's beginning.

        Returns:
            Seconds.
        """
        began = time.monotonic()
        array = np.memmap(path, np.uint8, "r", shape=(length,))
        int(array[::PAGE].sum())
        return time.monotonic() - began

    def touch_file(self, path: str, *, populate: bool = False, **plan: Any) -> tuple[float, Touched]:
        """Map the file, all at once with MAP_POPULATE or not, and touch its pages: no userfaultfd is needed for that.

        Returns:
            Seconds of mmap(2), and what the touching threads saw.
        """
        flags = mmap.MAP_PRIVATE | (mmap.MAP_POPULATE if populate else 0)
        with Path(path).open("rb") as file:
            began = time.monotonic()
            mapped = mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ)
            seconds = time.monotonic() - began
        with mapped:
            view = np.frombuffer(mapped, np.uint8)
            touched = self.touch([(view.ctypes.data, view.size)], **plan)
            del view
        return seconds, touched


def _read_all(fd: int, pieces: Sequence[tuple[int, int, int]]) -> None:
    """Read each piece, (address, offset, length) of the file."""
    for address, offset, length in pieces:
        buffer = (ctypes.c_char * length).from_address(address)
        if os.preadv(fd, [buffer], offset) != length:
            raise EOFError(f"the file ends before byte {offset + length}")
