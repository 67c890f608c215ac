"""Fork of the manager's process: the child keeps no userfaultfd, uses no target, and may serve its own."""

import pytest
from faulting import run_child

pytestmark = pytest.mark.requires_full_userfaultfd

PRELUDE = """
warnings.simplefilter("ignore")  # of Python: fork of a process with threads
def in_child(action):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            action()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid
def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def refused(action, kind=RuntimeError, text="forked from"):
    try:
        action()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError("not refused")
"""


def test_a_living_child_does_not_keep_the_userfaultfd() -> None:
    """With an inherited descriptor the early close would release nothing, and verified would be False."""
    code = """
memory = Managed(pages=20)
uffd = pyuffd.Userfaultfd()
fd = uffd.fileno()
target = pyuffd.serve(uffd, [memory.region()], ending="early-close", fault_around=1)
memory.touch(0, 5)
stay, leave = os.pipe()
told, tells = os.pipe()
def stay_alive():
    os.close(leave)
    assert not any(os.readlink(f"/proc/self/fd/{n}").startswith("anon_inode:[userfaultfd]")
                   for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{n}"))
    os.write(tells, b"x")
    os.read(stay, 1)  # until the parent closes
pid = in_child(stay_alive)
os.read(told, 1)
report = target.close("fill")
tell([report.verified, report.ending, memory.states().count("right")])
os.close(leave)
tell(ended(pid))
"""
    assert run_child(PRELUDE + code) == [[True, "early-close", 20], 0]


def test_a_child_gets_clean_errors_and_leaves_the_parents_targets_alone() -> None:
    code = """
memory = Managed(pages=20)
own = pyuffd.Userfaultfd()
manager = pyuffd.Manager()
target = memory.serve()
other = Managed(pages=5)
managed = manager.add(pyuffd.Userfaultfd(), [other.region()])
def use():
    global target, managed, manager, own
    refused(lambda: target.close("fill"))
    refused(lambda: target.fill())
    refused(lambda: target.wait(1, progress=False))
    refused(lambda: target.stats())
    refused(lambda: target.missing_pages)
    refused(lambda: target.stop())
    refused(lambda: target.discard())
    refused(lambda: manager.add(pyuffd.Userfaultfd(), [Managed(pages=1).region()]))
    assert "forked from" in repr(target)
    assert own.closed
    refused(own.fileno, ValueError)
    own.close()
    del target, managed, manager, own
    gc.collect()
tell(ended(in_child(use)))
memory.touch(threads=2)
manager.close()
assert target.wait(20, progress=False)
tell([memory.states().count("right"), other.states().count("right"), target.close().verified, own.closed])
"""
    assert run_child(PRELUDE + code) == [0, [20, 5, True, False]]


def test_a_child_serves_targets_of_its_own() -> None:
    code = """
memory = Managed(pages=20)
target = memory.serve()
def serve():
    mine = Managed(pages=30)
    with mine.serve(fillers=2) as own:
        mine.touch(0, 10)
        own.fill()
        assert own.wait(10, progress=False)
        assert own.close().verified is True
    lazy = pyuffd.lazy_array(pyuffd.MemorySource(mine.data), "u1", len(mine.data))
    assert lazy.tobytes() == mine.data
tell(ended(in_child(serve)))
target.close("fill")
tell(memory.states().count("right"))
"""
    assert run_child(PRELUDE + code) == [0, 20]


def test_memory_at_the_addresses_of_the_parents_managed_memory_may_be_a_source() -> None:
    """Managed memory is not inherited: what a child maps over the hole is its own."""
    code = """
memory = Managed(pages=2000)
target = memory.serve()
def serve():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = 0x32  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED: over what plugs the hole
    address, length = ctypes.c_void_p(memory.start), ctypes.c_size_t(memory.length)
    assert libc.mmap(address, length, 3, flags, -1, ctypes.c_long(0)) == memory.start
    here = np.ctypeslib.as_array((ctypes.c_uint8 * memory.length).from_address(memory.start))
    here[:] = 5
    lazy = pyuffd.lazy_array(pyuffd.MemorySource(here), "u1", memory.length)
    assert (lazy == 5).all()
tell(ended(in_child(serve)))
target.close("fill")
"""
    assert run_child(PRELUDE + code) == 0


def test_complete_memory_is_inherited() -> None:
    code = """
memory = Managed(pages=5)
with memory.serve() as target:
    target.close("fill")
def look():
    assert memory.states() == ["right"] * 5
tell(ended(in_child(look)))
"""
    assert run_child(PRELUDE + code) == 0


def test_missing_memory_is_not_inherited() -> None:
    """A segmentation fault in the child, never a zero."""
    code = """
memory = Managed(pages=5)
target = memory.serve(fault_around=1)
memory.touch(0, 1)
def look():
    faulthandler.disable()
    memory.mapping.array[0]
tell(ended(in_child(look)))
target.close("fill")
"""
    assert run_child(PRELUDE + code) == -11


def test_multiprocessing_with_fork() -> None:
    code = """
import multiprocessing
memory = Managed(pages=50)
target = memory.serve()
context = multiprocessing.get_context("fork")
def work(seed):
    mine = Managed(pages=10, seed=seed)
    with mine.serve() as own:
        mine.touch()
    return mine.states().count("right")
with context.Pool(2) as pool:
    counts = pool.map(work, range(4))
memory.touch(threads=2)
assert target.wait(20, progress=False)
tell([counts, target.close().verified])
"""
    assert run_child(PRELUDE + code) == [[10] * 4, True]


def test_many_forks_while_targets_are_served() -> None:
    """A fork excludes the opening and closing of userfaultfds, and meets threads anywhere."""
    code = """
stop = threading.Event()
wrong = []
def serve_on(seed):
    while not stop.is_set():
        memory = Managed(pages=20, seed=seed)
        with memory.serve(ending="early-close") as target:
            memory.touch(threads=2)
            report = target.close("fill")
        if report.verified is not True:
            wrong.append(report)
threads = [threading.Thread(target=serve_on, args=(seed,)) for seed in (1, 2)]
for thread in threads:
    thread.start()
def serve_once():
    memory = Managed(pages=3)
    with memory.serve() as target:
        target.close("fill")
codes = [ended(in_child(serve_once)) for _ in range(15)]
stop.set()
for thread in threads:
    thread.join()
tell([set(codes) == {0}, len(wrong)])
"""
    assert run_child(PRELUDE + code) == [True, 0]


def test_subprocesses_inherit_nothing() -> None:
    code = """
import subprocess
memory = Managed(pages=10)
target = memory.serve(ending="early-close")
sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
tell(target.close("fill").verified)
sleeper.kill()
sleeper.wait()
"""
    assert run_child(code) is True
