"""Parts of the soak: managers that are killed, and what comes after them."""

import contextlib
import os
import random
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyuffd
from support.churning import ChurnTarget, churning
from support.managers import Manager, Memory, guard_of, has_ended, holds_userfaultfd
from support.puppet import Puppet
from support.soak.counting import Counts
from support.soak.living import plan_of
from support.state import until

_SHOWN = 2000  # characters of what a manager says


def inheritances(draw: random.Random) -> Counts:
    """A target lives, and one manager after the other is killed: every byte is right in the end."""
    counts = Counts()
    plan = replace(plan_of(draw), seconds=draw.uniform(0.5, 2.0), between_forks=draw.choice((0.0, 0.02, 0.05)))
    with tempfile.NamedTemporaryFile() as image:
        Path(image.name).write_bytes(plan.data())
        with contextlib.ExitStack() as held, churning(plan, pyuffd.FileSource(image.name)) as target:
            managers = [held.enter_context(Manager(plan.pages, image=image.name, guard="manager"))]
            managers[0].serve_received(target.received)
            target.go()
            for _ in range(draw.choice((1, 2, 4))):
                time.sleep(draw.random() * plan.seconds / 4)  # where it is killed
                managers.append(held.enter_context(Manager(plan.pages, image=image.name, guard="manager")))
                if not _replace(draw, counts, managers):
                    break
            _count_end(counts, target, managers)
    return counts


def _replace(draw: random.Random, counts: Counts, managers: list[Manager]) -> bool:
    """Kill the last but one, perhaps with its guard before, and have the last take over.

    False if the target was complete, so that nobody held it: the heir has ended, too.
    """
    *dead, heir = managers
    if draw.random() < 0.3:
        _kill_guard(counts, dead[-1])
    if draw.random() < 0.3:
        dead[-1].tell("fill")
        time.sleep(draw.random() * 2e-3)
    dead[-1].signal(signal.SIGKILL)
    dead[-1].outcome()
    counts["managers killed"] += 1
    try:
        counts["take-overs"] += heir.take_over(dead[-1])
    except AssertionError:
        return False
    return True


def _kill_guard(counts: Counts, manager: Manager) -> None:
    with contextlib.suppress(AssertionError):
        guard = guard_of(manager.pid)
        os.kill(guard, signal.SIGKILL)
        counts["guards killed"] += 1
        until(lambda: has_ended(guard))
        until(lambda: holds_userfaultfd(guard_of(manager.pid)))


def _count_end(counts: Counts, target: ChurnTarget, managers: list[Manager]) -> None:
    """What the target saw. Fork children whose userfaultfd died with a manager read zeros: managers tell of them."""
    told = "".join(manager.errors() for manager in managers)
    orphans = "were born as its manager died" in told
    counts["orphans"] += orphans
    try:
        churned = target.result()
    except AssertionError as error:
        print(error, told[-_SHOWN:])
        counts["lost threads"] += 1
        return
    if not orphans:
        counts["wrong pages"] += churned["wrong_pages"]
        counts["broken children"] += churned["broken_children"]
    target.finish()


def poisonings(draw: random.Random) -> Counts:
    """A manager is killed, and nobody takes over: what is missing is poisoned."""
    counts = Counts()
    with Puppet.start() as puppet:
        for _ in range(5):
            pages = draw.choice((16, 300, 2000))
            memory = Memory(puppet, pages, draw.choice(("anonymous", "memfd", "memfd-private", "thp")))
            features = draw.choice((pyuffd.Feature(0), pyuffd.Feature.EVENTS))
            with Manager(pages, fault_around=draw.choice((1, 16, 64))) as manager:
                manager.serve(puppet, memory.regions, features=features)
                if draw.random() < 0.7:
                    manager.tell("fill")
                memory.touch(0, draw.randrange(1, pages))
                time.sleep(draw.random() * 1e-3)  # where it is killed
                manager.signal(draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)))
                manager.outcome()
            states = memory.states()
            counts["managers killed"] += 1
            counts["pages poisoned"] += states.count("poisoned")
            counts["wrong pages"] += states.count("zero") + states.count("wrong")
            puppet.do("unmap", memory.start, pages * memory.page)
    return counts
