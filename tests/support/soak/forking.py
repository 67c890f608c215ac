"""A part of the soak: forks of the manager's own process, whatever its threads and targets are at."""

import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import pyuffd
from support.kinds import ANONYMOUS, SHARED, Area
from support.memory import PAGE, Managed, random_bytes
from support.puppet import Puppet
from support.soak.counting import (
    ENDINGS,
    WRONG_BYTES,
    Counts,
    count_close,
    count_codes,
    count_stats,
    count_touches,
    leaks_counted,
)

_SECONDS = 12  # that a child may take
_SIZES = [pages * PAGE for pages in (2, 7, 50, 600)]  # of the arrays: a touch of the first page completes none
_Array = np.ndarray[Any, np.dtype[np.uint8]]


def forks(draw: random.Random) -> Counts:
    """Forks of this process, beside own arrays, targets and calls: children end in time and get no silent zero."""
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    counts = Counts()
    for inline in (False, True):
        _arrays(0, inline)  # before the leaks: one manager of all lazy arrays stays
    with Puppet.start() as puppet, leaks_counted(counts):
        _fork_on(draw, counts, puppet)
    return counts


def _fork_on(draw: random.Random, counts: Counts, puppet: Puppet) -> None:
    with pyuffd.Manager(handlers=draw.choice((1, 2))) as manager:
        parent = _Parent(draw, manager)
        if draw.random() < 0.7:
            parent.serve_other(draw, puppet)
        callers = [_Caller(parent, draw.random() < 0.5) for _ in range(draw.choice((0, 1, 2)))]
        try:
            for _ in range(draw.choice((10, 40))):
                brood = [parent.fork(draw) for _ in range(draw.choice((1, 1, 3)))]
                for pid, expected in brood:
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    count_codes(counts, [code], expected)
                    counts["own forks"] += 1
        finally:
            for caller in callers:
                caller.stop()
        counts["failures"] += sum(caller.failed for caller in callers)
        parent.finish(counts)


def _arrays(seed: int, inline: bool) -> list[_Array]:
    source = pyuffd.MemorySource(random_bytes(max(_SIZES), seed))
    return [pyuffd.lazy_array(source, "u1", size, inline=inline) for size in _SIZES]


def _right(arrays: list[_Array], seed: int) -> bool:
    data = random_bytes(max(_SIZES), seed)
    return all(array.tobytes() == data[: array.size] for array in arrays)


class _Parent:
    """What this process has when it forks, and what its children do with it."""

    def __init__(self, draw: random.Random, manager: pyuffd.Manager) -> None:
        self._manager = manager
        self.buffer = np.zeros(4 * PAGE, np.uint8)
        self._arrays = _arrays(1, inline=draw.random() < 0.5)
        self._first_page = draw.random() < 0.5
        for array in self._arrays if self._first_page else []:
            array[0]  # of some, the page around it
        self._whole = Managed(pages=50, seed=4)
        with self._whole.serve() as target:
            target.fill()
        self._kept = Managed(pages=draw.choice((1, 5, 100)), seed=2)
        features = draw.choice((pyuffd.Feature.EVENT_FORK, pyuffd.Feature.EVENTS))
        self.target = manager.add(pyuffd.Userfaultfd(features), [self._kept.region()], ending="keep-open")
        self.target.fill()
        assert self.target.wait(10, progress=False)
        self._half = Managed(pages=100, seed=3)
        self._half_target = manager.add(
            pyuffd.Userfaultfd(draw.choice((0, pyuffd.Feature.EVENTS))),
            [self._half.region()],
            ending=draw.choice(ENDINGS),
            fault_around=1,
        )
        self._half.touch(0, 50)
        self._other: tuple[Area, pyuffd.Target] | None = None

    def serve_other(self, draw: random.Random, puppet: Puppet) -> None:
        """Serve a target of another process by the same manager; its threads fault from now on."""
        area = Area(puppet, draw.choice((ANONYMOUS, SHARED)))
        got = area.hand_over(area.source, features=draw.choice((0, pyuffd.Feature.EVENTS)))
        target = self._manager.add(got.uffd, got.regions, pid=got.pid, fault_around=1)
        area.begin_touches(threads=draw.choice((1, 8)))
        self._other = area, target

    def fork(self, draw: random.Random) -> tuple[int, int]:
        """Fork a child that does one thing; its pid, and the code that it shall end with."""
        if draw.random() < 0.2:
            return self._fork_beside_kept(), 0
        right = (self._nothing, self._own_arrays, self._touch, self._complete, self._drop, self._again)
        if draw.random() < 0.3:
            return _in_child(self._incomplete, random.Random(draw.random())), -signal.SIGSEGV
        return _in_child(draw.choice(right), random.Random(draw.random())), 0

    def _fork_beside_kept(self) -> int:
        """Fork as soon as a keep-open target has everything, whose events nobody asked for: the child has it, too."""
        memory = Managed(pages=5, seed=5)
        target = self._manager.add(pyuffd.Userfaultfd(), [memory.region()], ending="keep-open")
        target.fill()
        assert target.wait(10, progress=False)
        pid = _in_child(lambda _: 0 if memory.states() == ["right"] * 5 else WRONG_BYTES, random.Random(0))
        target.discard()
        return pid

    def finish(self, counts: Counts) -> None:
        """Everything of the parent is right, after all forks."""
        if self._other:
            count_touches(counts, self._other[0])
            count_close(counts, self._other[1])
        counts["wrong pages"] += not _right(self._arrays, 1)
        count_close(counts, self._half_target)
        for memory in (self._whole, self._kept, self._half):
            counts["wrong pages"] += sum(state != "right" for state in memory.states())
        count_stats(counts, self.target)
        self.target.discard()  # else it is served on, up to the exit

    # What a child does; it returns the code that it ends with.

    def _nothing(self, draw: random.Random) -> int:
        return 0

    def _own_arrays(self, draw: random.Random) -> int:
        return 0 if _right(_arrays(4, inline=draw.random() < 0.5), 4) else WRONG_BYTES

    def _touch(self, draw: random.Random) -> int:
        for _ in range(10):
            pyuffd.touch(self.buffer)
        return 0

    def _complete(self, draw: random.Random) -> int:
        """Memory that had ended before the fork."""
        return 0 if self._whole.states() == ["right"] * self._whole.pages else WRONG_BYTES

    def _drop(self, draw: random.Random) -> int:
        """What is no longer its own, and then to have other memory."""
        self._arrays.clear()
        gc.collect()
        return self._own_arrays(draw)

    def _again(self, draw: random.Random) -> int:
        """Fork once more."""
        pid = _in_child(self._own_arrays, draw)
        return abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _incomplete(self, draw: random.Random) -> int:
        """Touch memory of the parent that was not complete, or has the kernel tell of forks until it ends."""
        faulthandler.disable()
        array = draw.choice([*self._arrays, self._half.mapping.array, self._kept.mapping.array])
        place = draw.choice((0, array.size - 1))
        if draw.random() < 0.5:
            array[place] = 1
        else:
            array[place]
        return WRONG_BYTES


def _in_child(action: Callable[[random.Random], int], draw: random.Random) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(_SECONDS)
        code = 1
        try:
            code = action(draw)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid


class _Caller:
    """A thread that makes calls of the package until it is stopped."""

    def __init__(self, parent: _Parent, inline: bool) -> None:
        self._parent = parent
        self._inline = inline
        self._stopping = threading.Event()
        self.failed = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._call()
        except Exception as error:
            print(repr(error), file=sys.stderr, flush=True)
            self.failed = True

    def _call(self) -> None:
        array = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 8 * PAGE, inline=self._inline)
        pyuffd.touch(array, 0, 2 * PAGE)
        pyuffd.touch(self._parent.buffer)
        memory = Managed(pages=10)
        with memory.serve() as target:
            target.fill()
            target.stats()
        self._parent.target.stats()
        assert memory.states() == ["right"] * 10
