"""A case: one comparison, whose arms are measured in rounds of shuffled order in one worker process."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from .idle import settle

# What is told of a case or a process.
Metadata = Mapping[str, str | int | float]

Unit = Literal["second", "byte", "page"]

# What the second measurement of a control's arm is called.
AGAIN = " (again)"


@dataclass(frozen=True)
class Sample:
    """What one measurement of an arm gave.

    Attributes:
        values: By metric; lower is better. None where the arm has no such value this time.
        arrays: By name: histograms and timelines, which figures are made from.
    """

    values: Mapping[str, float | None]
    arrays: Mapping[str, npt.NDArray[np.integer]] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One of the ways that a case compares.

    Attributes:
        name: The same word means the same way in every question.
        measure: Its value of the metric ``time``, or a sample of several.
    """

    name: str
    measure: Callable[[], float | Sample]

    def sample(self) -> Sample:
        """Measure it once."""
        found = self.measure()
        return found if isinstance(found, Sample) else Sample({"time": found})


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: Within its question.
        open: What a worker enters: it prepares what the rounds share, and gives the arms.
        parameters: What is varied, and what is held: columns of the results.
        pairs: Arms that are compared: the ratio is of the first one to the second.
        control: The arm that is measured twice in each round: what the two differ by is no difference.
        headline: Whether it is part of the answer that ``bench`` gives by default.
        rounds: In each process, if not as many as the effort says.
        warmups: Rounds before them that are not counted.
        seconds: About what a round takes; for the estimate of the whole.
        settles: Whether idle CPUs are brought back to halting before each arm: one may have kept them awake.
        unavailable: Why this machine or user cannot run it; empty where they can.
        time_limit: Seconds for one process; one that needs more hangs.
    """

    name: str
    open: Callable[[], AbstractContextManager[Sequence[Arm]]]
    parameters: Metadata = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    unit: Unit = "second"
    control: str = ""
    headline: bool = False
    rounds: int | None = None
    warmups: int = 1
    seconds: float = 0.3
    settles: bool = False
    unavailable: str = ""
    time_limit: float = 120.0

    def measure(self, rounds: int, order: random.Random) -> "Iterator[Round]":
        """Measure it in this process, round by round; the first ones are numbered below 0, and are not counted."""
        with self.open() as arms:
            every = [*arms, *(Arm(arm.name + AGAIN, arm.measure) for arm in arms if arm.name == self.control)]
            for number in range(-self.warmups, self.rounds or rounds):
                order.shuffle(every)
                yield Round(number, {arm.name: self._sample(arm) for arm in every})

    def _sample(self, arm: Arm) -> Sample:
        if self.settles:
            settle()
        return arm.sample()


@dataclass(frozen=True)
class Round:
    """The samples of one round, in the order in which they were measured."""

    number: int
    samples: Mapping[str, Sample]
