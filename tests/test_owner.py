"""Every target has one owner: what others do to it, at whatever moment, hangs nobody and leaks nothing."""

import contextlib
import errno
import gc
import itertools
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import Child, hear, run_child, tell
from support.kinds import ANONYMOUS, Area
from support.memory import PAGE, Managed, random_bytes
from support.puppet import Puppet
from support.state import named_threads, open_descriptors, until

import pyuffd

pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.requires_root]

FOR_LONG = 4 << 20  # pages: of zeros, faults on them last for longer than a test may take


def one_handler() -> pyuffd.Manager:
    """The manager of puppets: all is in a child, which may hang or die."""
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    return pyuffd.Manager(handlers=1)


def use_cpus(count: int) -> None:
    """Before any thread is started."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def make_urgent() -> None:
    """Have all threads but the main one run as soon as they are told something."""
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            with contextlib.suppress(PermissionError):  # then it is a matter of luck
                os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(1))


def overwrite_freed(seed: int) -> list[bytearray]:
    """Give memory that was freed other bytes, zeros and what is no pointer, so that a use of it is met with."""
    words = np.random.default_rng(seed).choice(np.array([0, 0xFEEDFEEDFEEDFEED], np.uint64), 2048).tobytes()
    return [bytearray(words[:size]) for size in range(1024, len(words), 16)]


def hand_over(
    puppet: Puppet,
    pages: int,
    source: pyuffd.Source,
    features: int = 0,
    kind: str = "anonymous",
    **options: Any,
) -> tuple[int, pyuffd.handoff.Handoff]:
    start = puppet.do("map", pages * PAGE, kind)
    return start, puppet.hand_over([(start, pages * PAGE, 0, PAGE)], source, features, **options)


def add(manager: pyuffd.Manager, got: pyuffd.handoff.Handoff, **options: Any) -> pyuffd.Target:
    return manager.add(got.uffd, got.regions, pid=got.pid, **({"fault_around": 1} | options))


def touch_on(puppet: Puppet, start: int, pages: int, threads: int = 1) -> None:
    puppet.do("begin_touches", start, pages * PAGE, PAGE, {"threads": threads, "timed": False})


def soon(predicate: Callable[[], object]) -> bool:
    ends = time.monotonic() + 6
    while not predicate() and time.monotonic() < ends:
        os.sched_yield()
    return bool(predicate())


def targets_that_are_dead_when_they_are_added_child(cpus: int) -> None:
    use_cpus(cpus)
    manager = one_handler()
    make_urgent()

    def dead() -> pyuffd.handoff.Handoff:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            memory = pyuffd.Mapping(4 * PAGE)
            pyuffd.handoff.send(theirs, pyuffd.Userfaultfd(), [(memory.address, memory.length, 0, PAGE)])
            os._exit(0)
        with ours, theirs:
            got = pyuffd.handoff.receive(ours, pyuffd.ZeroSource())
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its pid stays
        return got

    for number in range(150):
        got = dead()
        target = add(manager, got)
        assert target.wait(10, progress=False)
        target.close("zero")
        os.waitpid(got.pid, 0)
        _written = overwrite_freed(number)
    manager.close()
    tell("served")


@pytest.mark.parametrize("cpus", [1, 2])
def test_targets_that_are_dead_when_they_are_added(cpus: int) -> None:
    """On one CPU the handler runs before whoever adds the target has returned from telling it."""
    assert run_child(targets_that_are_dead_when_they_are_added_child, cpus, limit=20) == "served"


def targets_that_are_complete_as_soon_as_they_are_added_child(cpus: int) -> None:
    use_cpus(cpus)
    manager = one_handler()
    make_urgent()

    source = pyuffd.MemorySource(random_bytes(PAGE))
    with Puppet.start(limit=8) as puppet:
        for number in range(100):
            start, got = hand_over(puppet, 1, source)
            touch_on(puppet, start, 1)
            target = add(manager, got)
            assert target.wait(10, progress=False)
            assert target.close().missing_pages == 0
            puppet.do("end_touches")
            _written = overwrite_freed(number)
        manager.close()
    tell("served")


@pytest.mark.parametrize("cpus", [1, 2])
def test_targets_that_are_complete_as_soon_as_they_are_added(cpus: int) -> None:
    """A thread sleeps already for the only page."""
    assert run_child(targets_that_are_complete_as_soon_as_they_are_added_child, cpus, limit=20) == "served"


def forks_and_faults_without_end_at_the_descriptor_limit_child(spare: int) -> None:
    manager = one_handler()
    with Puppet.start() as puppet:
        pages = 1 << 19  # of which a child that gets no descriptor has all poisoned
        start, got = hand_over(puppet, pages + 1, pyuffd.ZeroSource(), pyuffd.Feature.EVENTS)
        target = add(manager, got)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(name) for name in open_descriptors()) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, before[1]))
        touch_on(puppet, start, pages)
        forked = puppet.do("breed", 2.0, 40)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert puppet.do("read", start + pages * PAGE, 4) == bytes(4).hex()
        puppet.kill()
        assert target.wait(10, progress=False)
        manager.close()
    tell(forked > 2)


@pytest.mark.parametrize("spare", [0, 2])
def test_forks_and_faults_without_end_at_the_descriptor_limit(spare: int) -> None:
    """A fork's event that cannot be read keeps the faults of its parent from being resolved meanwhile."""
    assert run_child(forks_and_faults_without_end_at_the_descriptor_limit_child, spare) is True


def become(user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def allow_threads(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (count, resource.getrlimit(resource.RLIMIT_NPROC)[1]))


def attempt(action: Callable[[], object]) -> int | str | None:
    try:
        action()
    except OSError as error:
        return error.errno
    return "done"


def a_manager_whose_threads_cannot_be_started_is_an_error_child() -> None:
    def use(threads: int) -> int:
        become(54321)
        allow_threads(threads)
        memory = Managed(pages=10)
        uffd = pyuffd.Userfaultfd(user_mode_only=True)
        found = [
            attempt(lambda: pyuffd.Manager(handlers=3, fillers=3).close()),
            attempt(lambda: pyuffd.serve(uffd, [memory.region()]).close("fill")),
        ]
        assert set(found) <= {11, "done"}, found  # EAGAIN
        if found[1] != "done":
            assert not uffd.closed
            uffd.register(memory.start, memory.length)
        return found.count("done")

    found = []
    for threads in range(1, 16):
        pid = os.fork()
        if pid == 0:
            os._exit(10 + use(threads))
        found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    tell(found)


def test_a_manager_whose_threads_cannot_be_started_is_an_error() -> None:
    """Whichever of them it is."""
    found = run_child(a_manager_whose_threads_cannot_be_started_is_an_error_child)
    assert set(found) <= {10, 11, 12}, found
    assert found[0] == 10
    assert found[-1] == 12


def a_direct_source_whose_thread_cannot_be_started_child(path: str) -> None:
    memory = Managed(pages=10)
    Path(path).write_bytes(memory.data)
    try:
        region = memory.region(source=pyuffd.FileSource(path, direct=True))
    except pyuffd.UnsupportedError:
        tell("no O_DIRECT here")
        sys.exit()
    become(54322)
    manager = pyuffd.Manager(handlers=1)
    uffd = pyuffd.Userfaultfd(user_mode_only=True)
    allow_threads(1)
    found = attempt(lambda: manager.add(uffd, [region]).close("fill"))
    allow_threads(100)
    if found != "done":
        assert (found, uffd.closed) == (11, False), found  # EAGAIN
        manager.add(uffd, [region]).close("fill")
    manager.close()
    tell(memory.states().count("right"))


def test_a_direct_source_whose_thread_cannot_be_started(tmp_path: Path) -> None:
    """It is refused, and may be served later, or does without the thread."""
    found = run_child(a_direct_source_whose_thread_cannot_be_started_child, tmp_path / "image")
    if found == "no O_DIRECT here":
        pytest.skip("the file system of temporary files does not do O_DIRECT")
    assert found == 10


def a_callable_source_whose_thread_cannot_be_started_child() -> None:
    manager = one_handler()
    pages = 10
    targets: list[pyuffd.Target] = []
    data = random_bytes(pages * PAGE)
    source = pyuffd.CallableSource(lambda offset, length: data[offset : offset + length], len(data))
    puppet = Puppet.start(limit=8)  # of root's, it ends when this process does
    start, got = hand_over(puppet, pages, source)
    become(54323)
    manager = pyuffd.Manager(handlers=1)
    allow_threads(1)
    found = attempt(lambda: targets.append(add(manager, got)))
    allow_threads(100)
    if found != "done":
        assert (found, got.uffd.closed) == (11, False), found  # EAGAIN
        targets.append(add(manager, got))
    else:
        allow_threads(1)
    tell(puppet.do("read", start, len(data)) == data.hex())
    allow_threads(100)
    tell(targets[0].close("fill").missing_pages)
    sys.stderr.flush()
    os._exit(0)


def test_a_callable_source_whose_thread_cannot_be_started() -> None:
    assert run_child(a_callable_source_whose_thread_cannot_be_started_child, limit=20) == [True, 0]


def written_and_close_while_the_target_unmaps_child() -> None:
    manager = one_handler()
    pages = 4000
    with Puppet.start(limit=8) as puppet:
        for _ in range(5):
            kept, unmapped = (puppet.do("map", pages * PAGE, "anonymous") for _ in range(2))
            regions = [(kept, pages * PAGE, 0, PAGE), (unmapped, pages * PAGE, 0, PAGE)]
            got = puppet.hand_over(regions, pyuffd.ZeroSource(), pyuffd.Feature.EVENTS, "missing+wp")
            target = add(manager, got)
            target.fill()
            until(lambda target=target: target.missing_pages == 0)  # type: ignore[misc]
            puppet.do("write_each", kept, pages * PAGE, 2 * PAGE)  # so that there is much to protect again
            resetter = threading.Thread(target=target.written, args=[True])
            puppet.post("unmap_each", unmapped, pages * PAGE, PAGE)
            until(lambda target=target: target.stats().unmaps)  # type: ignore[misc]
            resetter.start()
            target.close("zero")
            resetter.join()
            puppet.answer()
            puppet.do("unmap", kept, pages * PAGE)
        manager.close()
    tell("nobody hangs")


def test_written_and_close_while_the_target_unmaps() -> None:
    """The events of the target are read until nobody needs them any more to get on."""
    assert run_child(written_and_close_while_the_target_unmaps_child, limit=12) == "nobody hangs"


def add_where_epoll_has_no_room_child() -> None:
    become(54324)
    manager = pyuffd.Manager(handlers=1)
    memory = Managed(pages=10)
    uffd = pyuffd.Userfaultfd(user_mode_only=True)
    pipes = [os.pipe() for _ in range(100)]
    polls = [select.epoll() for _ in range(30)]
    for poll in polls:
        for reader, _ in pipes:
            poll.register(reader)
    tell("has 3000 watches")
    hear()
    try:
        manager.add(uffd, [memory.region()])
    except OSError as error:
        found: list[object] = [error.errno]
    else:
        found = ["added"]
    found.append(uffd.closed)
    with pyuffd.Userfaultfd(user_mode_only=True) as other:
        try:
            other.register(memory.start, memory.length)
            other.unregister(memory.start, memory.length)
            found.append("free")
        except OSError as error:
            found.append(error.errno)
    tell(found)
    for poll in polls:
        poll.close()
    with manager.add(uffd, [memory.region()]):
        memory.touch()
    manager.close()
    tell(memory.states().count("right"))


def test_add_where_epoll_has_no_room() -> None:
    """The userfaultfd stays its caller's, and nothing is registered. The limit is one for each user."""
    most = Path("/proc/sys/fs/epoll/max_user_watches")
    if not os.access(most, os.W_OK):
        pytest.skip("the limit of epoll watches cannot be lowered here")
    with Child(add_where_epoll_has_no_room_child) as child:
        assert child.hear() == "has 3000 watches"
        before = most.read_text()
        most.write_text("2000")
        try:
            child.tell("go on")
            found = child.hear()
        finally:
            most.write_text(before)
        assert found == [errno.ENOSPC, False, "free"]
        assert child.hear() == 10
        child.finish()


def a_source_that_hangs_holds_up_no_other_child(deadline: float | None) -> None:
    manager = one_handler()
    gate = threading.Event()
    with Puppet.start() as first, first.fork() as second:
        hung, healthy = Area(first, ANONYMOUS), Area(second, ANONYMOUS)

        def hang(offset: int, length: int) -> bytes:
            gate.wait()
            return hung.data[offset : offset + length]

        def answer(offset: int, length: int) -> bytes:
            return healthy.data[offset : offset + length]

        def serve(area: Area, read: Callable[[int, int], bytes], deadline: float | None) -> pyuffd.Target:
            return add(manager, area.hand_over(pyuffd.CallableSource(read, area.length, deadline=deadline)))

        stuck = serve(hung, hang, None)
        hung.begin_touches(threads=8, verified=False)
        until(lambda: stuck.stats().faults >= 8)
        target = serve(healthy, answer, deadline)
        healthy.begin_touches(verified=False)
        complete = soon(lambda: target.ended)
        tell([complete, target.stats().poisoned])
        gate.set()
        if complete and not target.stats().poisoned:
            healthy.end_touches()
            tell(healthy.states().count("right"))
        hung.end_touches()
        manager.close()


@pytest.mark.parametrize("deadline", [None, 0.5])
def test_a_source_that_hangs_holds_up_no_other(deadline: float | None) -> None:
    """Nor does another's deadline pass while it waits for its turn."""
    found = run_child(a_source_that_hangs_holds_up_no_other_child, deadline)
    assert found == [[True, 0], 48]


def a_target_ends_although_another_keeps_its_handler_busy_child(how: str) -> None:
    manager = one_handler()
    with Puppet.start() as first, first.fork() as second:
        start, got = hand_over(first, FOR_LONG, pyuffd.ZeroSource())
        busy = add(manager, got)
        touch_on(first, start, FOR_LONG)
        _, got = hand_over(second, 10, pyuffd.ZeroSource())
        target = add(manager, got)
        second.post("execute" if how == "exec" else "leave")
        ended = soon(lambda: target.ended)
        assert first.do("touching")  # else nobody was busy
        tell([ended, target.close("zero").missing_pages])
        first.kill()
        second.kill()
        assert busy.wait(10, progress=False)
        manager.close()


@pytest.mark.parametrize("how", ["exec", "death"])
def test_a_target_ends_although_another_keeps_its_handler_busy(how: str) -> None:
    assert run_child(a_target_ends_although_another_keeps_its_handler_busy_child, how) == [True, 10]


def a_lost_wake_is_found_although_another_target_keeps_the_handler_busy_child() -> None:
    manager = one_handler()
    pages = 20
    with Puppet.start() as first, first.fork() as second:
        place, got = hand_over(first, FOR_LONG, pyuffd.ZeroSource())
        busy = add(manager, got)
        touch_on(first, place, FOR_LONG)
        until(lambda: busy.stats().faults)
        start, got = hand_over(second, pages, pyuffd.ZeroSource(), keep=True)
        target = add(manager, got)
        second.do("steal", False)
        second.do("touch_beside_thief", start, pages * PAGE, PAGE)
        second.post("end_stealing")
        came = soon(lambda: target.missing_pages == 0)
        assert first.do("touching")  # else nobody was busy
        tell(came)
        if came:
            assert second.answer() > 0
        first.kill()
        assert busy.wait(10, progress=False)
        target.close("zero")
        manager.close()


def test_a_lost_wake_is_found_although_another_target_keeps_the_handler_busy() -> None:
    """A thread whose message somebody else has read is woken, and faults once more."""
    assert run_child(a_lost_wake_is_found_although_another_target_keeps_the_handler_busy_child) is True


def late_faults_with_a_long_deadline_cost_the_same_each_child() -> None:
    manager = one_handler()
    pages, parts = 50_000, 10
    page = bytes(PAGE)

    def cpu_seconds() -> float:
        (handler,) = [thread for thread, name in named_threads().items() if name == "uffd-handle-0"]
        return int(Path(f"/proc/self/task/{handler}/schedstat").read_text().split()[0]) / 1e9

    with Puppet.start() as puppet:
        source = pyuffd.CallableSource(lambda offset, length: page, pages * PAGE, deadline=1000)
        start, got = hand_over(puppet, pages, source)
        target = add(manager, got)
        until(lambda: "uffd-handle-0" in named_threads().values())
        spent = [cpu_seconds()]
        for part in range(parts):
            touch_on(puppet, start + part * pages // parts * PAGE, pages // parts)
            puppet.do("end_touches")
            spent.append(cpu_seconds())
        assert target.stats().faults >= pages
        manager.close()
    tell([after - before for before, after in itertools.pairwise(spent)])


def test_late_faults_with_a_long_deadline_cost_the_same_each() -> None:
    """The handler's CPU time for the last fifth of the faults, and for the first."""
    spent = run_child(late_faults_with_a_long_deadline_cost_the_same_each_child, limit=60)
    assert sum(spent[-2:]) < 2 * sum(spent[:2]), spent


def the_sources_of_an_ended_target_are_released_child(holder: str) -> None:
    count = 64
    memory = Managed(pages=count)
    manager = pyuffd.Manager(handlers=1)
    buffers = [np.full(PAGE, number, np.uint8) for number in range(count)]
    held = [weakref.ref(buffer) for buffer in buffers]
    regions = [pyuffd.Region(memory.at(page), PAGE, pyuffd.MemorySource(buffer)) for page, buffer in enumerate(buffers)]
    target = manager.add(pyuffd.Userfaultfd(), regions)
    del buffers, regions
    target.fill()
    assert target.wait(10, progress=False)
    target.close()
    del target
    if holder == "nobody":
        manager.close()
        del manager
    ends = time.monotonic() + 5
    while any(reference() is not None for reference in held) and time.monotonic() < ends:
        gc.collect()
    tell(sum(reference() is not None for reference in held))


@pytest.mark.parametrize("holder", ["manager", "nobody"])
def test_the_sources_of_an_ended_target_are_released(holder: str) -> None:
    """As many as there are, by its end, or with the manager."""
    assert run_child(the_sources_of_an_ended_target_are_released_child, holder) == 0


def a_target_that_steals_its_own_messages_holds_up_nobody_child(features: str, then: str) -> None:
    manager = one_handler()
    pages = 50
    data = random_bytes(pages * PAGE)
    source, chosen = pyuffd.MemorySource(data), pyuffd.Feature.EVENTS if features == "events" else 0
    with Puppet.start(limit=8) as first, first.fork() as second:
        stolen, got = hand_over(first, pages, source, chosen, keep=True)
        _thief = add(manager, got)
        start, got = hand_over(second, pages, source, chosen)
        target = add(manager, got)
        first.do("steal", True)
        first.do("touch_beside_thief", stolen, pages * PAGE, PAGE)
        if then == "fork":
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        assert second.do("read", start, len(data)) == data.hex()
        assert target.wait(8, progress=False)
        assert first.do("end_stealing") > 0
        assert first.do("read", stolen, len(data)) == data.hex()
        manager.close()
    tell("served")


@pytest.mark.parametrize(("features", "then"), [("none", "read"), ("events", "read"), ("events", "fork")])
def test_a_target_that_steals_its_own_messages_holds_up_nobody(features: str, then: str) -> None:
    """It keeps a descriptor of its userfaultfd, which it makes blocking: the handler never sleeps for it in read(2)."""
    assert run_child(a_target_that_steals_its_own_messages_holds_up_nobody_child, features, then, limit=16) == "served"


def moves_without_end_take_no_memory_child() -> None:
    manager = one_handler()
    pages, first, count = 4, 10_000, 100_000
    length = pages * PAGE

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    with Puppet.start() as puppet:
        data = random_bytes(length)
        start, got = hand_over(puppet, pages, pyuffd.MemorySource(data), pyuffd.Feature.EVENT_REMAP, "shared")
        places = puppet.do("map", (first + count) * length, "anonymous")
        puppet.do("unmap", places, (first + count) * length)
        target = add(manager, got)
        start = puppet.do("wander", start, length, places, first)
        before = resident()
        start = puppet.do("wander", start, length, places + first * length, count)
        grown = resident() - before
        assert target.stats().remaps == first + count
        assert puppet.do("read", start, length) == data.hex()
        manager.close()
    tell(grown)


def test_moves_without_end_take_no_memory() -> None:
    """Of shared memory, whose old place might still be there for all that a target without EVENT_UNMAP tells."""
    assert run_child(moves_without_end_take_no_memory_child) < 4 << 20


def forks_beyond_the_memory_limit_are_poisoned_and_end_nobody_child(path: str) -> None:
    manager = one_handler()
    with Path(path).open("wb") as file:
        file.truncate(FOR_LONG * PAGE)
        file.seek(PAGE)
        file.write(b"right")
    with Puppet.start() as puppet:
        start, got = hand_over(puppet, FOR_LONG, pyuffd.FileSource(path), pyuffd.Feature.EVENTS)
        target = add(manager, got)
        assert puppet.do("read", start, 5) == bytes(5).hex()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), before[1]))
        puppet.do("brood", 200, start + PAGE, b"right".hex())
        resource.setrlimit(resource.RLIMIT_AS, before)
        codes = puppet.do("harvest")
        assert puppet.do("read", start + PAGE, 5) == b"right".hex()
        puppet.kill()
        assert target.wait(10, progress=False)
        manager.close()
    tell([codes.count(0), codes.count(-signal.SIGBUS)])


def test_forks_beyond_the_memory_limit_are_poisoned_and_end_nobody(tmp_path: Path) -> None:
    """Each child has books of its own, half a megabyte here."""
    served, poisoned = run_child(forks_beyond_the_memory_limit_are_poisoned_and_end_nobody_child, tmp_path / "sparse")
    assert served + poisoned == 200
    assert poisoned > 0
