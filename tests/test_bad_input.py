"""Bad input: a clear error that names the wrong value, and nothing is lost or left registered."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import become_nobody, run_child, tell
from support.memory import PAGE, Managed
from support.state import no_descriptor_leaks

import pyuffd
from pyuffd import Feature, _core, _workload

HUGE = 2 << 20


def still_usable(uffd: pyuffd.Userfaultfd, memory: Managed) -> None:
    """After a refusal: nothing is registered, and the same userfaultfd serves the same memory."""
    with pyuffd.Userfaultfd(user_mode_only=True) as other:
        other.register(memory.start, memory.length)
        other.unregister(memory.start, memory.length)
    with pyuffd.serve(uffd, [memory.region()]) as target:
        target.close("fill")
    assert memory.states() == ["right"] * memory.pages


@pytest.fixture
def uffd() -> pyuffd.Userfaultfd:
    return pyuffd.Userfaultfd(user_mode_only=None)


@pytest.mark.parametrize(
    ("start", "length", "keywords", "message"),
    [
        (PAGE + 1, PAGE, {}, "must be multiples of page_size"),
        (PAGE, PAGE - 1, {}, "must be multiples of page_size"),
        (PAGE, 0, {}, "its length is 0"),
        (PAGE, PAGE, {"page_size": 1000}, "page_size is 1000"),
        (PAGE, PAGE, {"page_size": 0}, "page_size is 0"),
        (PAGE, PAGE, {"page_size": HUGE}, f"multiples of page_size {HUGE}"),
        (PAGE, PAGE, {"source_offset": 1}, "shorter than the region"),
        (PAGE, PAGE, {"source_offset": (1 << 64) - 1}, "shorter than the region"),
        (PAGE, 2 * PAGE, {}, f"its source has {PAGE} bytes"),
        ((1 << 64) - PAGE, PAGE, {}, "wraps around"),
        (-PAGE, PAGE, {}, "start is -"),
        (PAGE, 1 << 64, {}, "length is"),
        (PAGE, PAGE, {"source_offset": -1}, "source_offset is -1"),
        (PAGE, PAGE, {"page_size": -1}, "page_size is -1"),
    ],
)
def test_regions(start: int, length: int, keywords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyuffd.Region(start, length, pyuffd.MemorySource(bytes(PAGE)), **keywords)


def test_region_types() -> None:
    source = pyuffd.ZeroSource()
    for arguments in [("1", PAGE, source), (PAGE, PAGE, b"bytes"), (PAGE, 1.0, source)]:
        with pytest.raises(TypeError):
            pyuffd.Region(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it has no source"):
        pyuffd.Region(PAGE, PAGE, None)
    with pytest.raises(ValueError, match=r"mode is 'wp'; it must be one of 'missing', 'minor', 'missing\+minor'"):
        pyuffd.Region(PAGE, PAGE, source, mode="wp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_remove is 'drop'; it must be one of 'auto', 'keep'"):
        pyuffd.Region(PAGE, PAGE, source, on_remove="drop")  # type: ignore[arg-type]


def test_a_region_says_what_it_is() -> None:
    source = pyuffd.ZeroSource()
    region = pyuffd.Region(4 * PAGE, 2 * PAGE, source, 7)
    assert (region.start, region.length, region.source_offset, region.page_size) == (4 * PAGE, 2 * PAGE, 7, PAGE)
    assert region.source is source
    assert f"start={4 * PAGE:#x} length={2 * PAGE} source_offset=7 page_size={PAGE}" in repr(region)


def test_overlapping_regions(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=8)
    with pytest.raises(ValueError, match="overlap"):
        pyuffd.serve(uffd, [memory.region(0, 5), memory.region(4, 4)])
    with pytest.raises(ValueError, match="at least one region"):
        pyuffd.serve(uffd, [])
    still_usable(uffd, memory)


def test_a_region_that_is_not_mapped(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=4)
    gone = Managed(pages=4)
    region = gone.region()
    gone.mapping.close()
    with pytest.raises(OSError, match=f"cannot register region {region.start:#x}-.*not mapped") as caught:
        pyuffd.serve(uffd, [memory.region(), region])
    assert caught.value.errno == errno.EINVAL
    still_usable(uffd, memory)


def test_a_region_that_is_registered_elsewhere(uffd: pyuffd.Userfaultfd) -> None:
    memory, other = Managed(pages=4), Managed(pages=4)
    with pyuffd.Userfaultfd(user_mode_only=True) as owner:
        owner.register(memory.at(2), PAGE)
        with pytest.raises(OSError, match="registered with another userfaultfd") as caught:
            pyuffd.serve(uffd, [other.region(), memory.region()])
        assert caught.value.errno == errno.EBUSY
    still_usable(uffd, memory)


def test_memory_that_may_not_be_written(uffd: pyuffd.Userfaultfd, tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        start = int(np.frombuffer(mapping, np.uint8).ctypes.data)
        with pytest.raises(OSError, match="cannot register region"):
            pyuffd.serve(uffd, [pyuffd.Region(start, PAGE, pyuffd.ZeroSource())])


def test_a_page_size_that_does_not_fit(uffd: pyuffd.Userfaultfd) -> None:
    room = pyuffd.Mapping(2 * HUGE)
    start = (room.address + HUGE - 1) // HUGE * HUGE
    region = pyuffd.Region(start, HUGE, pyuffd.ZeroSource(), page_size=HUGE)
    with pytest.raises(ValueError, match=f"page_size is {HUGE}, but its pages have {PAGE} bytes"):
        pyuffd.serve(uffd, [region])
    memory = Managed(pages=2)
    still_usable(uffd, memory)


@pytest.mark.requires_hugetlb
@pytest.mark.usefixtures("huge_pages")
def test_a_page_size_that_does_not_fit_hugetlb_memory(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=2, kind="hugetlb")
    region = pyuffd.Region(memory.start, memory.length, memory.source)
    with pytest.raises(ValueError, match="but it is hugetlb memory: give the page size of its pool"):
        pyuffd.serve(uffd, [region])
    still_usable(uffd, memory)


def test_a_source_in_its_own_region(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=4)
    source = pyuffd.MemorySource(memory.mapping.array)
    with pytest.raises(ValueError, match="lies in managed memory"):
        pyuffd.serve(uffd, [memory.region(source=source)])
    del source
    still_usable(uffd, memory)


@pytest.mark.requires_full_userfaultfd
def test_a_source_in_the_memory_of_another_target_and_the_other_way_round() -> None:
    one, two = Managed(pages=4), Managed(pages=4)
    uffd = pyuffd.Userfaultfd()
    inside_one = pyuffd.MemorySource(one.mapping.array)
    with one.serve() as target:
        with pytest.raises(ValueError, match="lies in managed memory"):
            pyuffd.serve(uffd, [two.region(source=inside_one)])
        target.close("fill")
    with pyuffd.serve(uffd, [two.region(source=inside_one)]) as target:  # it is complete now
        with pytest.raises(ValueError, match="lies in managed memory"):
            one.serve()
        target.close("fill")
    assert two.mapping.array.tobytes() == one.data
    del inside_one


def test_a_lazy_array_is_no_source_until_it_is_complete() -> None:
    array = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 4 * PAGE)
    with pytest.raises(ValueError, match="lies in managed memory"):
        pyuffd.lazy_array(pyuffd.MemorySource(array), "u1", 4 * PAGE)
    target = pyuffd.target_of(array)
    target.fill()
    assert target.wait(20, progress=False)
    copy = pyuffd.lazy_array(pyuffd.MemorySource(array), "u1", 4 * PAGE)
    assert copy.tobytes() == bytes(4 * PAGE)


def test_a_userfaultfd_whose_faults_reach_no_manager_is_refused() -> None:
    memory = Managed(pages=2)
    with pyuffd.Userfaultfd(Feature.SIGBUS, user_mode_only=True) as uffd:
        with pytest.raises(ValueError, match="SIGBUS, so its faults reach no manager"):
            pyuffd.serve(uffd, [memory.region()])
        assert not uffd.closed


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ending": "now"}, ValueError, "ending is 'now'; it must be one of 'auto', 'early-close', 'unregister'"),
        ({"fault_around": 0}, ValueError, "fault_around is 0 pages"),
        ({"fault_around": -1}, ValueError, "fault_around is -1"),
        ({"fault_around": "much"}, TypeError, "fault_around is 'much'; it must be an integer"),
        ({"fillers": 0}, ValueError, "fillers is 0"),
        ({"fillers": -1}, ValueError, "fillers is -1"),
        ({"placement": [100_000]}, ValueError, r"CPU 100000 is not in the affinity mask.*os.sched_getaffinity\(0\)"),
        ({"placement": [-1]}, ValueError, "CPU -1"),
        ({"placement": ["0"]}, TypeError, "a list of CPUs, which are integers"),
        ({"pid": "1"}, TypeError, "pid is '1'; it must be a number"),
        ({"verify": 1}, TypeError, "verify is 1; it must be True or False"),
    ],
    ids=str,
)
def test_options(uffd: pyuffd.Userfaultfd, options: Any, error: type[Exception], message: str) -> None:
    memory = Managed(pages=2)
    with no_descriptor_leaks(), pytest.raises(error, match=message):
        pyuffd.serve(uffd, [memory.region()], **options)
    still_usable(uffd, memory)


def test_manager_options() -> None:
    with no_descriptor_leaks():
        for options, message in [
            ({"handlers": 0}, "handlers is 0"),
            ({"handlers": -1}, "handlers is -1"),
            ({"fillers": 0}, "fillers is 0"),
            ({"placement": [100_000]}, "CPU 100000"),
        ]:
            with pytest.raises(ValueError, match=message):
                pyuffd.Manager(**options)  # type: ignore[arg-type]


def test_what_missing_may_be(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=2)
    with pyuffd.serve(uffd, [memory.region()]) as target:
        with pytest.raises(ValueError, match="missing is 'none'; it must be one of 'raise', 'fill', 'zero', 'poison'"):
            target.close("none")  # type: ignore[arg-type]
        assert not target.ended


def test_what_is_no_userfaultfd_or_region() -> None:
    memory = Managed(pages=1)
    with pytest.raises(TypeError):
        pyuffd.serve(5, [memory.region()])  # type: ignore[arg-type]
    uffd = pyuffd.Userfaultfd(user_mode_only=None)
    with pytest.raises(TypeError):
        pyuffd.serve(uffd, [(memory.start, memory.length)])  # type: ignore[list-item]
    still_usable(uffd, memory)


def test_a_userfaultfd_is_served_once(uffd: pyuffd.Userfaultfd) -> None:
    memory = Managed(pages=2)
    with pyuffd.serve(uffd, [memory.region()]):
        with pytest.raises(ValueError, match="belongs to a target"):
            pyuffd.serve(uffd, [memory.region()])
        memory.touch()
    closed = pyuffd.Userfaultfd(user_mode_only=None)
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        pyuffd.serve(closed, [memory.region()])


def no_permission_names_the_device_and_the_sysctl_child() -> None:
    become_nobody()
    try:
        pyuffd.Userfaultfd(user_mode_only=False)
    except pyuffd.UnsupportedError as error:
        tell([isinstance(error, OSError), error.errno, str(error)])
    found = pyuffd.probe()
    tell([found.usable, found.full, found.advice])
    memory = Managed(pages=4)
    with pyuffd.Userfaultfd() as uffd:
        tell(uffd.user_mode_only)
    uffd = pyuffd.Userfaultfd()
    with pyuffd.serve(uffd, [memory.region()], fault_around=1) as target:
        tell(memory.touch(0, 2).wrong_pages)
        try:
            os.write(1, memory.mapping.array[3 * PAGE :].data)  # a kernel access to a missing page
        except OSError as error:
            tell(error.errno)
        target.close("fill")
    tell(memory.states().count("right"))
    array = pyuffd.lazy_array(pyuffd.MemorySource(memory.data), "u1", len(memory.data))
    tell(array.tobytes() == memory.data)


@pytest.mark.requires_root
def test_no_permission_names_the_device_and_the_sysctl() -> None:
    """An unprivileged user: the default of Debian and Ubuntu is vm.unprivileged_userfaultfd=0."""
    if (
        Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0"
        or Path("/dev/userfaultfd").stat().st_mode & 6
    ):
        pytest.skip("every user may open a full userfaultfd here")
    refusal, probe, best, wrong, kernel, right, lazy = run_child(no_permission_names_the_device_and_the_sysctl_child)
    is_os_error, number, text = refusal
    assert is_os_error
    assert number == errno.EPERM
    for part in ("/dev/userfaultfd", "vm.unprivileged_userfaultfd", "CAP_SYS_PTRACE", "user_mode_only=True"):
        assert part in text
    assert probe[:2] == [True, False]
    assert probe[2].startswith("only user mode is permitted")
    assert (best, wrong, kernel, right, lazy) == (True, 0, errno.EFAULT, 4, True)


def fork_events_need_a_capability_child() -> None:
    become_nobody()
    try:
        pyuffd.Userfaultfd(pyuffd.Feature.EVENT_FORK, user_mode_only=True)
    except pyuffd.UnsupportedError as error:
        tell([error.errno, str(error)])


@pytest.mark.requires_root
def test_fork_events_need_a_capability() -> None:
    number, text = run_child(fork_events_need_a_capability_child)
    assert number == errno.EPERM
    assert "EVENT_FORK needs CAP_SYS_PTRACE" in text


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EPERM, PermissionError),
        (errno.EACCES, PermissionError),
        (errno.ENOENT, FileNotFoundError),
        (errno.EEXIST, FileExistsError),
        (errno.EAGAIN, BlockingIOError),
        (errno.ESRCH, ProcessLookupError),
        (errno.EINVAL, OSError),
    ],
)
def test_errors_of_the_kernel_are_the_right_os_error(number: int, kind: type[OSError]) -> None:
    with pytest.raises(kind, match="what happened") as caught:
        _core._raise_system_error(number, "what happened")
    assert type(caught.value) is kind
    assert caught.value.errno == number
    assert caught.value.strerror == "what happened"


def test_memory_may_be_managed_again_and_again() -> None:
    memory = Managed(pages=3)
    for ending in ("early-close", "unregister", "auto"):
        uffd = pyuffd.Userfaultfd(user_mode_only=None)
        with pyuffd.serve(uffd, [memory.region()], ending=ending) as target:
            target.close("fill")
        assert memory.states() == ["right"] * 3
        _workload.release_pages(memory.start, memory.length)


def test_another_process_for_a_userfaultfd_of_this_one() -> None:
    memory = Managed(pages=2)
    with pytest.raises(ValueError, match="this process opened the userfaultfd"):
        pyuffd.serve(pyuffd.Userfaultfd(), [memory.region()], pid=os.getppid())


def test_too_many_threads() -> None:
    with pytest.raises(ValueError, match="at most 1024 handlers"):
        pyuffd.Manager(handlers=10**9)
