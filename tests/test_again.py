"""A target that connects again, because its manager has died and no guard has its ledger."""

from typing import Any

import pytest
from support.managers import PAGES, SEED, Manager, Memory
from support.memory import PAGE, Managed, random_bytes
from support.puppet import Puppet

import pyuffd
from pyuffd import Feature

pytestmark = pytest.mark.requires_full_userfaultfd

_DONTNEED = 4


@pytest.fixture
def memory(puppet: Puppet) -> Memory:
    return Memory(puppet)


def abandon(memory: Memory, puppet: Puppet, features: int = 0) -> None:
    """Have a manager die in the middle, without a guard. With events the target has dropped a page by then."""
    with Manager(guard=None, ending="keep-open") as manager:
        manager.serve(puppet, memory.regions, keep=True, features=features)
        memory.touch(3, 5)
        if features:
            puppet.do("advise", memory.start + 3 * PAGE, PAGE, _DONTNEED)
        manager.die()


def serve_again(memory: Memory, puppet: Puppet, **options: Any) -> pyuffd.Target:
    source = pyuffd.MemorySource(random_bytes(PAGES * PAGE, SEED))
    got = puppet.hand_over_again(memory.regions, source)
    assert got.again
    return pyuffd.serve(got.uffd, got.regions, pid=got.pid, again=got.again, **options)


def test_without_events_every_byte_is_right(memory: Memory, puppet: Puppet) -> None:
    abandon(memory, puppet)
    with serve_again(memory, puppet) as target:
        assert target.missing_pages == PAGES - 5
        assert target.stats().found_present == 5
        assert memory.states() == ["right"] * PAGES
        report = target.close()
        assert (report.trusted, report.found_present) == (None, 5)


def test_a_thread_that_slept_goes_on(memory: Memory, puppet: Puppet) -> None:
    """Its fault was read by the manager that died."""
    with Manager(guard=None, ending="keep-open", fault_around=1) as manager:
        manager.serve(puppet, memory.regions, keep=True)
        manager.halt()  # or it would be before the thief
        puppet.do("steal", False)
        puppet.do("touch_beside_thief", memory.start, 4 * PAGE, PAGE, 2)
        manager.die()
    with serve_again(memory, puppet):
        assert puppet.do("end_stealing") >= 2
        assert memory.states() == ["right"] * PAGES


def test_with_removals_it_is_refused(memory: Memory, puppet: Puppet) -> None:
    abandon(memory, puppet, Feature.EVENTS)
    with pytest.raises(ValueError, match="Give trust='pagemap' if"):
        serve_again(memory, puppet)


def test_with_removals_the_report_tells_the_risk(memory: Memory, puppet: Puppet) -> None:
    abandon(memory, puppet, Feature.EVENTS)
    with serve_again(memory, puppet, trust="pagemap") as target:
        assert memory.states() == ["right"] * PAGES  # the page that was dropped, too: it should be zeros
        assert target.close().trusted == "pagemap"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust": "pagemap"}, "give again=True"),
        ({"again": True}, "another process, which has registered"),
        ({"again": True, "trust": "ledger"}, "trust is 'ledger'"),
    ],
)
def test_memory_of_this_process(options: dict[str, Any], message: str) -> None:
    with pyuffd.Userfaultfd() as uffd, pytest.raises(ValueError, match=message):
        pyuffd.serve(uffd, [Managed(pages=1).region()], **options)
