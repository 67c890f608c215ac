"""Comparisons, with the uncertainty of each, and verdicts.

A comparison is of two arms of a case, which every process measured in the same rounds: each round has a ratio of its
own. A process counts once, by the median of its rounds' ratios, since rounds of one process are more alike than those
of two. The ratio told is the geometric mean over the processes, and its interval that of Student's t on the logarithms.
A bootstrap (BCa) was tried: of as few processes as there are its interval of 95 % holds the truth in 83 to 89 of 100
cases, that of t in 95.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ..harness.case import AGAIN
from .results import Results, Values

Relation = Literal["differs", "no difference", "within noise", "undecided", "not measured"]
Verdict = Literal["reached", "falls short", "undecided", "not measured"]

_CONFIDENCE = 0.95
_CLOSE = 1.05  # arms that are surely nearer to each other than that show no difference
_LEAST_PROCESSES = 3  # with fewer, there is no interval


@dataclass(frozen=True)
class Noise:
    """By how much an arm may differ from itself.

    Attributes:
        ratio: At least 1. A smaller difference between two arms is not called one.
        own: Whether the control is the case's own. That of other cases cannot explain a difference away.
    """

    ratio: float = 1.0
    own: bool = True


@dataclass(frozen=True)
class Comparison:
    """How many times as much one arm takes as another one.

    Attributes:
        ratio: NaN where nothing can be compared.
        low: The lower end of the 95 % interval of the ratio; NaN where there are too few processes for one.
        high: Its upper end.
        median: Of the arm's values.
        other_median: Of those of the other one.
        left_out: Rounds in which one of the two had no value.
    """

    question: str
    case: str
    arm: str
    other: str
    metric: str
    ratio: float
    low: float
    high: float
    median: float
    other_median: float
    processes: int
    rounds: int
    left_out: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where the ratio lies with a confidence of 95 %; everywhere where that is not known."""
        return (0.0, math.inf) if math.isnan(self.low) else (self.low, self.high)

    def relation(self, noise: Noise) -> Relation:
        """Whether the arms differ by more than chance, and by more than an arm may differ from itself."""
        if math.isnan(self.ratio):
            return "not measured"
        low, high = self.interval
        if low > noise.ratio or high < 1 / noise.ratio:
            return "differs"
        close = max(noise.ratio, _CLOSE)
        if not 1 / close <= low <= high <= close:
            return "undecided"
        if low <= 1 <= high:
            return "no difference"
        return "within noise" if noise.own else "undecided"

    def verdict(self, limit: float, *, at_most: bool = True) -> Verdict:
        """Whether the ratio is within the limit; undecided where its interval holds the limit."""
        if math.isnan(self.ratio):
            return "not measured"
        low, high = self.interval
        if low <= limit <= high:
            return "undecided"
        return "reached" if (high < limit) == at_most else "falls short"


def process_logs(
    results: Results, question: str, case: str, arm: str, other: str, metric: str
) -> tuple[Values, pd.DataFrame, pd.DataFrame]:
    """The logarithm of each process's ratio; and the values of both arms by round: all, and those with a ratio."""
    both = pd.concat(
        [results.of(question, case, arm, metric), results.of(question, case, other, metric)],
        axis=1,
        keys=["arm", "other"],
    )
    usable = both[(both.arm > 0) & (both.other > 0)]
    logs = np.log(usable.arm / usable.other).groupby(level="process").median().to_numpy(np.float64)
    return logs, both, usable


def compare(results: Results, question: str, case: str, arm: str, other: str, metric: str = "time") -> Comparison:
    """Compare two arms of a case."""
    logs, both, usable = process_logs(results, question, case, arm, other, metric)
    ratio, low, high = mean_of_logs(logs)
    return Comparison(
        question, case, arm, other, metric,
        ratio=ratio,
        low=low,
        high=high,
        median=float(both.arm.median()),
        other_median=float(both.other.median()),
        processes=len(logs),
        rounds=len(usable),
        left_out=len(both) - len(usable),
    )  # fmt: skip


def mean_of_logs(logs: Values) -> tuple[float, float, float]:
    """The geometric mean of the ratios whose logarithms these are, and its interval of 95 %; NaN where unknown."""
    if not len(logs):
        return math.nan, math.nan, math.nan
    ratio = math.exp(logs.mean())
    if len(logs) < _LEAST_PROCESSES:
        return ratio, math.nan, math.nan
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(logs) - 1) * stats.sem(logs))
    return ratio, math.exp(logs.mean() - half), math.exp(logs.mean() + half)


def noise(results: Results, question: str, case: str = "", metric: str = "time") -> Noise:
    """By how much an arm may differ from itself: the far end of the interval of the case's own control.

    A case without one takes all controls of its question together, as does the question where no case is named.
    """
    controlled = [info for info in results.cases_of(question) if info.control]
    own = [info for info in controlled if info.name == case]
    logs = [
        process_logs(results, question, info.name, info.control, info.control + AGAIN, metric)[0]
        for info in own or controlled
    ]
    ratio, low, high = mean_of_logs(np.concatenate([np.empty(0), *logs]))
    return Noise(1.0 if math.isnan(ratio) or math.isnan(low) else max(1 / low, high, 1.0), own=bool(own))
