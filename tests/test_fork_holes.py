"""Forks of the manager's process: memory that the child does not get, and locks that it gets in whatever state."""

import signal

import pytest
from faulting import run_child

pytestmark = pytest.mark.requires_full_userfaultfd

PRELUDE = """
warnings.simplefilter("ignore")  # of Python: fork of a process with threads
def in_child(action):
    pid = os.fork()
    if pid == 0:
        signal.alarm(8)
        try:
            action()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid
def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

# Arrays of some sizes, of which the first half was touched.
ARRAYS = """
sizes = [pages * PAGE for pages in (1, 7, 50, 600)] * 3
def make(seed, inline):
    source = pyuffd.MemorySource(random_bytes(max(sizes), seed))
    return [pyuffd.lazy_array(source, "u1", size, inline=inline) for size in sizes]
def wrong(arrays, seed):
    data = random_bytes(max(sizes), seed)
    return [array.size // PAGE for array in arrays if array.tobytes() != data[:array.size]]
parents = make(1, inline=sys.argv[1] == "True")
for array in parents[::2]:
    array[0]
"""


@pytest.mark.parametrize("inherited", [True, False], ids=["inline", "served"])
@pytest.mark.parametrize("own", [True, False], ids=["inline", "served"])
def test_a_child_has_arrays_of_its_own_where_its_parents_are_not(inherited: bool, own: bool) -> None:
    """They have the child's bytes, and those of its parent stay right."""
    code = """
own = sys.argv[2] == "True"
def use():
    mine = make(2, own)
    assert wrong(mine, 2) == [], wrong(mine, 2)
codes = [ended(in_child(use)) for _ in range(2)]
tell([codes, wrong(parents, 1)])
"""
    assert run_child(PRELUDE + ARRAYS + code, inherited, own) == [[0, 0], []]


def test_a_pool_of_processes_that_are_forked_uses_inline_arrays() -> None:
    code = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def work(seed):
    signal.alarm(8)
    return wrong(make(seed, True), seed)
with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
    found = list(pool.map(work, range(2, 12)))
tell([found, wrong(parents, 1)])
"""
    assert run_child(PRELUDE + ARRAYS + code, True) == [[[]] * 10, []]


@pytest.mark.parametrize("fills", [False, True], ids=["at-once", "after-mapping"])
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_a_childs_touch_of_incomplete_memory_is_a_segmentation_fault(inline: bool, fills: bool, write: bool) -> None:
    """Whatever the child maps meanwhile."""
    code = """
import mmap
fills, write = (argument == "True" for argument in sys.argv[2:])
def touch(array, place):
    faulthandler.disable()
    mine = []
    for size in sizes * 20 if fills else []:
        mine.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        mine[-1][0] = 1
    if write:
        array[place] = 1
    else:
        array[place]
codes = [ended(in_child(lambda: touch(array, place))) for array in parents[1::2] for place in (0, array.size - 1)]
tell([codes, wrong(parents, 1)])
"""
    codes, wrong = run_child(PRELUDE + ARRAYS + code, inline, fills, write)
    assert codes == [-signal.SIGSEGV] * 12
    assert wrong == []


@pytest.mark.parametrize("inline", [False, True])
def test_a_child_that_drops_its_parents_arrays_keeps_its_own_memory(inline: bool) -> None:
    code = """
import mmap
def use():
    mine = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for size in sizes * 20]
    for number, memory in enumerate(mine):
        memory[:] = bytes([number]) * len(memory)
    parents.clear()
    gc.collect()
    for number, memory in enumerate(mine):
        assert memory[:] == bytes([number]) * len(memory)
tell([ended(in_child(use)), wrong(parents, 1)])
"""
    assert run_child(PRELUDE + ARRAYS + code, inline) == [0, []]


@pytest.mark.requires_root
def test_fork_while_another_target_of_the_handler_faults() -> None:
    """The fork of this process waits for the handler to read its event, and the handler must not wait for the fork."""
    code = """
from puppet import Puppet
length = 16 << 30  # faults for more than this test's time
with Puppet.start() as puppet:
    manager = pyuffd.Manager(handlers=1)
    memory = Managed(pages=5)
    own = manager.add(pyuffd.Userfaultfd(pyuffd.Feature.EVENTS), [memory.region()], ending="keep-open")
    own.fill()
    assert own.wait(10, progress=False)
    start = puppet.do("map", length, "anonymous")
    got = puppet.hand_over([(start, length, 0, PAGE)], pyuffd.ZeroSource(), pyuffd.Feature.EVENTS)
    target = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=1)
    puppet.do("begin_touches", start, length, PAGE, {"threads": 2, "timed": False})
    until(lambda: target.stats().faults)
    codes = [ended(in_child(lambda: None)) for _ in range(20)]
    assert puppet.do("touching")
    puppet.kill()
    assert target.wait(10, progress=False)
    manager.close()
tell(codes)
"""
    assert run_child(PRELUDE + code, limit=15) == [0] * 20


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("use", ["touch", "call"])
def test_fork_while_other_threads_are_in_calls(inline: bool, use: str) -> None:
    """The child makes calls too, whatever its parent's threads held at the fork: the same, or a small one."""
    code = """
inline = sys.argv[1] == "True"
memory = Managed(pages=200)
target = memory.serve()
buffer = np.zeros(4 * PAGE, np.uint8)
def call():
    lazy = pyuffd.lazy_array(memory.source, "u1", 8 * PAGE, inline=inline)
    pyuffd.touch(lazy, 0, 2 * PAGE)
    pyuffd.touch(buffer)
    return lazy
stop = threading.Event()
def call_on():
    while not stop.is_set():
        call()
        target.stats()
def use():
    if sys.argv[2] == "touch":
        for _ in range(10):
            pyuffd.touch(buffer)
    else:
        assert call().tobytes() == memory.data[:8 * PAGE]
threads = [threading.Thread(target=call_on) for _ in range(2)]
for thread in threads:
    thread.start()
codes = []
ends = time.monotonic() + 1
while time.monotonic() < ends and not any(codes):
    codes.append(ended(in_child(use)))
stop.set()
for thread in threads:
    thread.join()
target.close("fill")
tell([len(codes) > 1, sorted(set(codes))])
"""
    assert run_child(PRELUDE + code, inline, use) == [True, [0]]


def test_fork_while_an_inline_target_ends() -> None:
    """Its ending waits for a thread that installs its pages, and the child's calls wait for nobody."""
    code = """
lazy = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 4 << 30, inline=True)
target = pyuffd.target_of(lazy)
buffer = np.zeros(PAGE, np.uint8)
def touch_all():
    with contextlib.suppress(OSError):  # it may be given up
        pyuffd.touch(lazy)
toucher = threading.Thread(target=touch_all)
closer = threading.Thread(target=target.close, args=["zero"])
toucher.start()
until(lambda: target.stats().pages)
closer.start()
codes = []
while closer.is_alive() and not any(codes):
    codes.append(ended(in_child(lambda: pyuffd.touch(buffer))))
closer.join()
toucher.join()
tell(sorted(set(codes) - {0}))
"""
    assert run_child(PRELUDE + "import contextlib\n" + code) == []


def test_a_fork_while_a_target_with_fork_events_begins() -> None:
    """No FORK event of this memory may be sent: the fork would wait for it, and add() for the fork."""
    code = """
from threading import Thread
source = pyuffd.MemorySource(random_bytes(PAGE))
stop = False
def serve():
    while not stop:
        memory = pyuffd.Mapping(PAGE)
        region = pyuffd.Region(memory.address, PAGE, source)
        with pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.EVENT_FORK), [region]):
            pass
thread = Thread(target=serve)
thread.start()
codes = {ended(in_child(lambda: None)) for _ in range(1000)}
stop = True
thread.join()
tell(list(codes))
"""
    assert run_child(PRELUDE + code) == [0]
