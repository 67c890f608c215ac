"""The interpreter exits with a live target: what is missing is filled first, and no zero is left behind."""

import signal
import socket

import pytest
from faulting import Child, run_child

MANAGER = """
twin = Managed(pages=200)
with socket.socket(fileno=int(sys.argv[1])) as sock:
    got = pyuffd.handoff.receive(sock, twin.source)
"""

# Has memory and hands it over; when told, looks at every byte.
TARGET = """
memory = Managed(pages=200)
with socket.socket(fileno=int(sys.argv[1])) as sock:
    uffd = pyuffd.Userfaultfd(user_mode_only=True)
    pyuffd.handoff.send(sock, uffd, [(memory.start, memory.length, 0, PAGE)])
hear()
tell([memory.states().count("right"), memory.states().count("zero")])
"""


@pytest.mark.parametrize(
    "leave",
    [
        "",
        "memory_of = target",
        "sys.exit(0)",
        "target.fill(); sys.exit(0)",
        "import atexit; atexit.register(lambda: None)",
        "cycle = [target]; cycle.append(cycle)",
    ],
    ids=["end", "held", "sys.exit", "filling", "atexit", "cycle"],
)
@pytest.mark.parametrize("ending", ["auto", "unregister", "keep-open"])
def test_a_manager_that_exits_at_once_has_filled_the_target(leave: str, ending: str) -> None:
    manager = MANAGER + "target = pyuffd.serve(got.uffd, got.regions, pid=got.pid, ending=sys.argv[2])\n" + leave
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(TARGET, theirs.fileno(), sockets=[theirs]) as target,
        Child(manager, ours.fileno(), ending, sockets=[ours]) as child,
    ):
        child.finish()
        target.tell("look")
        assert target.hear() == [200, 0]
        target.finish()


@pytest.mark.parametrize("how", ["raise ValueError('no')", "os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"])
def test_a_manager_that_fails_has_filled_the_target(how: str) -> None:
    manager = MANAGER + "target = pyuffd.serve(got.uffd, got.regions, pid=got.pid)\n" + how
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(TARGET, theirs.fileno(), sockets=[theirs]) as target,
        Child(manager, ours.fileno(), sockets=[ours]) as child,
    ):
        child.finish(1 if "raise" in how else -signal.SIGINT)
        target.tell("look")
        assert target.hear() == [200, 0]
        target.finish()


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize("count", [1, 5])
def test_in_one_process(count: int) -> None:
    """A handler registered before pyuffd's import runs after ours: it sees the filled memory."""
    code = """
memories = [Managed(pages=50, seed=seed) for seed in range(int(sys.argv[1]))]
manager = pyuffd.Manager()
targets = [manager.add(pyuffd.Userfaultfd(), [memory.region()]) for memory in memories]
alone = Managed(pages=50)
own = alone.serve()
pyuffd._target._fill_at_exit()
tell([memory.states().count("right") for memory in [*memories, alone]])
"""
    assert run_child(code, count) == [50] * (count + 1)


@pytest.mark.requires_full_userfaultfd
def test_exit_while_threads_fault() -> None:
    code = """
import ctypes
memory = Managed(pages=3000)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # never unmapped under its touchers
target = memory.serve(fault_around=1)
toucher = memory.toucher(threads=4, order="random", passes=0)
tell("exit")
"""
    assert run_child(code) == "exit"


@pytest.mark.requires_full_userfaultfd
def test_exit_with_every_kind_of_target() -> None:
    code = """
memories = [Managed(pages=20, seed=seed) for seed in range(6)]
ended = memories[0].serve()
ended.close("fill")
kept = memories[1].serve(ending="keep-open")
kept.close()
stopped = memories[2].serve(ending="keep-open")
uffd = stopped.stop()
live = memories[3].serve()
manager = pyuffd.Manager()
managed = manager.add(pyuffd.Userfaultfd(), [memories[4].region()])
lazy = pyuffd.lazy_array(pyuffd.MemorySource(memories[5].data), "u1", memories[5].length)
tell("exit")
"""
    assert run_child(code) == "exit"


@pytest.mark.requires_full_userfaultfd
def test_a_killed_manager_releases_at_once() -> None:
    """Nothing can be done then: the kernel closes the descriptor and nobody is left asleep."""
    manager = MANAGER + "target = pyuffd.serve(got.uffd, got.regions, pid=got.pid)\ntell('serving')\nhear()"
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(TARGET, theirs.fileno(), sockets=[theirs]) as target,
        Child(manager, ours.fileno(), sockets=[ours]) as child,
    ):
        assert child.hear() == "serving"
        child.signal(signal.SIGKILL)
        child.finish(-signal.SIGKILL)
        target.tell("look")
        right, zero = target.hear()
        assert right + zero == 200
        target.finish()
