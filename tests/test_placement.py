"""Where handlers run, and what is done about the threads of their targets."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from support.child import Child, become_nobody, hear, run_child, tell, words
from support.managers import guard_of, has_another_guard
from support.memory import PAGE, Managed
from support.state import until

import pyuffd
from pyuffd import _manager

CPUS = sorted(os.sched_getaffinity(0))
NAMED = pyuffd.Feature.THREAD_ID


def serve(memory: Managed, placement: str | list[int] = "adopt", **options: Any) -> pyuffd.Target:
    chosen: Any = placement
    return pyuffd.serve(pyuffd.Userfaultfd(NAMED), [memory.region()], placement=chosen, fault_around=1, **options)


@pytest.mark.parametrize("placement", ["auto", "free", "adopt", [CPUS[0]], [CPUS[-1]]])
@pytest.mark.parametrize("threads", [1, 4])
def test_every_placement_serves(placement: str | list[int], threads: int) -> None:
    memory = Managed(pages=600)
    with serve(memory, placement) as target:
        memory.touch(threads=threads)
        assert target.wait(20, progress=False)
        stats = target.stats()
    assert stats.adopted == (threads if placement == "adopt" else 0)
    assert stats.held == 0
    where = {"auto": "free", "free": "free", "adopt": f"adopt: handler and threads on CPU {CPUS[0]}"}
    place, *awake = stats.placement.split("; ")
    assert place == (where[placement] if isinstance(placement, str) else f"handler on CPU {placement[0]}")
    assert len(awake) == (placement not in ("free", "adopt"))


def test_several_handlers_have_a_cpu_each() -> None:
    count = min(2, len(CPUS))
    memories = [Managed(pages=64) for _ in range(count)]
    with pyuffd.Manager(handlers=count, placement="adopt") as manager:
        targets = [manager.add(pyuffd.Userfaultfd(NAMED), [memory.region()]) for memory in memories]
        for memory in memories:
            memory.touch()
        places = {target.stats().placement for target in targets}
    assert places == {f"adopt: handler and threads on CPU {cpu}" for cpu in CPUS[:count]}


def let_go_of_heirs(how: str) -> None:
    """Touch pages until this thread is held, have a thread and a process inherit that, and let go."""
    memory = Managed(pages=4000)
    before = os.sched_getaffinity(0)
    cpu = min(before)
    target = pyuffd.serve(
        pyuffd.Userfaultfd(pyuffd.Feature.THREAD_ID),
        [memory.region()],
        placement="adopt",
        fault_around=1,
        ending="keep-open" if how == "stop" else "auto",
    )
    for page in range(memory.pages):
        memory.mapping.array[page * PAGE]
        if os.sched_getaffinity(0) == {cpu}:
            break
    assert os.sched_getaffinity(0) == {cpu} or len(before) == 1
    wait = threading.Event()
    heir = threading.Thread(target=wait.wait)
    heir.start()
    child = subprocess.Popen(["sleep", "60"])
    if how == "stop":
        _uffd = target.stop()
    elif how == "close":
        target.close("fill")
    else:
        with target:
            pass
    assert heir.native_id is not None
    masks = [os.sched_getaffinity(task) for task in (0, heir.native_id, child.pid)]
    child.kill()
    child.wait()
    wait.set()
    heir.join()
    tell([mask == before for mask in masks])
    os._exit(0)


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("how", ["close", "stop", "with"])
def test_masks_are_given_back(how: str) -> None:
    told = run_child(let_go_of_heirs, how)
    assert told == [True] * 3


def be_adopted(fd: int) -> None:
    memory = Managed(pages=4000)
    before = os.sched_getaffinity(0)
    sock = socket.socket(fileno=fd)
    uffd = pyuffd.Userfaultfd(pyuffd.Feature.THREAD_ID)
    pyuffd.handoff.send(sock, uffd, [(memory.start, memory.length, 0, PAGE)], keep=True)
    sock.recv(1)
    _toucher = memory.toucher(threads=2, think_ns=100_000, verified=False)
    hear()
    tasks = Path("/proc/self/task")
    until(lambda: all(os.sched_getaffinity(int(task.name)) == before for task in tasks.iterdir()))
    tell("free")
    os.kill(os.getpid(), signal.SIGKILL)


def adopt_and_die(fd: int, kills_guard: bool) -> None:
    sock = socket.socket(fileno=fd)
    memory = Managed(pages=4000)
    got = pyuffd.handoff.receive(sock, memory.source)
    target = pyuffd.serve(got.uffd, got.regions, pid=got.pid, placement="adopt", fault_around=1, guard=None)
    if kills_guard:
        guard = guard_of(os.getpid())
        os.kill(guard, signal.SIGKILL)
        until(lambda: has_another_guard(os.getpid(), guard), "another guard")
    sock.send(b"x")
    until(lambda: target.stats().held == 2)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("kills_guard", [False, True])
def test_masks_are_given_back_when_the_manager_is_killed(kills_guard: bool) -> None:
    """The guard does that, or the next one, which is there within two seconds."""
    ours, theirs = socket.socketpair()
    with (
        Child(adopt_and_die, theirs.fileno(), kills_guard, sockets=[theirs]) as manager,
        Child(be_adopted, ours.fileno(), sockets=[ours]) as target,
    ):
        manager.finish(-9)
        target.tell("it is dead")
        assert target.hear() == "free"
        target.finish(-9)
    ours.close()
    theirs.close()


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_threads_that_compute_are_let_go() -> None:
    memory = Managed(pages=20000)
    target = serve(memory, ending="keep-open")
    toucher = memory.toucher(threads=4, think_ns=500_000, verified=False)
    until(lambda: target.stats().releases > 0, "a release")
    assert target.stats().adopted == 4
    toucher.stop()
    toucher.join()
    assert target.stats().held == 0
    target.stop().close()


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_a_strangers_threads_are_not_adopted() -> None:
    """The pid of a hand-off may belong to another process by now."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Child(be_served, theirs.fileno(), sockets=[theirs]) as child, Child(hear) as stranger:
        got = pyuffd.handoff.receive(ours, Managed(pages=64).source)
        with pytest.raises(ValueError, match=rf"pid is {stranger.pid}, and by its smaps .* registered none"):
            pyuffd.serve(got.uffd, got.regions, pid=stranger.pid, placement="adopt")
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid, placement="adopt"):
            child.finish()
        stranger.tell("end")
        stranger.finish()


def be_served(fd: int) -> None:
    memory = Managed(pages=64)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, pyuffd.Userfaultfd(NAMED), [(memory.start, memory.length, 0, PAGE)])
    memory.touch()


def be_served_in_another_pid_namespace(fd: int) -> None:
    command = ["unshare", "--pid", "--fork", *words(be_served, fd)]
    sys.exit(subprocess.call(command, pass_fds=[fd]))


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root, for a pid namespace")
def test_adopts_a_thread_of_another_pid_namespace() -> None:
    ours, theirs = socket.socketpair()
    with Child(be_served_in_another_pid_namespace, theirs.fileno(), sockets=[theirs]) as child:
        theirs.close()
        got = pyuffd.handoff.receive(ours, Managed(pages=64).source)
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid, placement="adopt") as target:
            assert target.wait(20, progress=False)
            assert target.stats().adopted == 1
        child.finish()
    ours.close()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"placement": "best"}, ValueError, "placement is 'best'"),
        ({"placement": []}, ValueError, "placement is an empty list"),
        ({"placement": [4095]}, ValueError, "CPU 4095 is not in the affinity mask"),
        ({"keep_awake": "never"}, TypeError, "keep_awake is 'never'; it must be True or False"),
    ],
)
def test_placements_that_cannot_be(options: dict[str, Any], error: type[Exception], words: str) -> None:
    memory, uffd = Managed(pages=2), pyuffd.Userfaultfd(NAMED)
    with pytest.raises(error, match=words):
        pyuffd.serve(uffd, [memory.region()], **options)
    uffd.close()


def test_adopt_needs_thread_ids() -> None:
    memory, uffd = Managed(pages=2), pyuffd.Userfaultfd()
    with pytest.raises(ValueError, match="THREAD_ID"):
        pyuffd.serve(uffd, [memory.region()], placement="adopt")
    pyuffd.serve(uffd, [memory.region()]).close("zero")  # it is its user's still


def test_adopt_has_a_cpu_for_each_handler() -> None:
    with pytest.raises(ValueError, match=f"handlers is {len(CPUS) + 1} and there are {len(CPUS)} CPUs"):
        pyuffd.Manager(handlers=len(CPUS) + 1, placement="adopt")


def adopt_without_guard_child() -> None:
    _manager._GUARD = types.SimpleNamespace(path="/nowhere/pyuffd-guard", fd=-1)  # type: ignore[assignment]
    with pytest.raises(OSError, match=r"cannot open the guard /nowhere/pyuffd-guard.*no placement 'adopt'"):
        pyuffd.Manager(placement="adopt")
    tell("refused")


def test_adopt_needs_a_guard() -> None:
    assert run_child(adopt_without_guard_child) == "refused"


def adopt_as_nobody(fd: int) -> None:
    sock = socket.socket(fileno=fd)
    memory = Managed(pages=4)
    got = pyuffd.handoff.receive(sock, memory.source)
    manager = pyuffd.Manager(placement="adopt")
    become_nobody()
    try:
        manager.add(got.uffd, got.regions, pid=got.pid)
    except pyuffd.UnsupportedError as error:
        tell([str(error), error.needs])
    pyuffd.serve(got.uffd, got.regions, pid=got.pid).close("fill")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_threads_of_another_user_are_not_adopted() -> None:
    ours, theirs = socket.socketpair()
    memory = Managed(pages=4)
    with Child(adopt_as_nobody, theirs.fileno(), sockets=[theirs]) as manager:
        entries = [(memory.start, memory.length, 0, PAGE)]
        pyuffd.handoff.send(ours, pyuffd.Userfaultfd(NAMED), entries)
        said, needs = manager.hear()
        assert "placement 'adopt' may not change the affinity" in said
        assert needs == ["CAP_SYS_NICE"]
        manager.finish()
    ours.close()
    theirs.close()
