"""Comparisons, with the uncertainty of each, and verdicts.

A comparison is of two arms of a case, which every process measured in the same rounds: each round has a ratio of its
own. A process counts once, by the median of its rounds' ratios, since rounds of one process are more alike than those
of two. The ratio told is the geometric mean over the processes, and its interval a bootstrap of them (scipy's, bias
corrected and accelerated; Efron 1987).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ..harness.case import AGAIN
from .results import Results, Values

Verdict = Literal["reached", "falls short", "undecided", "not measured"]

_RESAMPLES = 9999
_CONFIDENCE = 0.95
_LEAST_PROCESSES = 3  # with fewer, there is no interval


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

    def differs(self, noise: float) -> bool:
        """Whether the two arms differ by more than chance, and by more than an arm differs from itself."""
        low, high = self.interval
        return (low > 1.0 or high < 1.0) and abs(math.log(self.ratio)) > math.log(noise)

    def verdict(self, limit: float, *, at_most: bool = True) -> Verdict:
        """Whether the ratio is within the limit; undecided where its interval holds the limit."""
        if math.isnan(self.ratio):
            return "not measured"
        low, high = self.interval
        if low <= limit <= high:
            return "undecided"
        return "reached" if (high < limit) == at_most else "falls short"


def compare(results: Results, question: str, case: str, arm: str, other: str, metric: str = "time") -> Comparison:
    """Compare two arms of a case."""
    both = pd.concat(
        [results.of(question, case, arm, metric), results.of(question, case, other, metric)],
        axis=1,
        keys=["arm", "other"],
    )
    usable = both[(both.arm > 0) & (both.other > 0)]
    logs = np.log(usable.arm / usable.other).groupby(level="process").median().to_numpy()
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
    if np.ptp(logs) == 0:
        return ratio, ratio, ratio
    found = stats.bootstrap(
        (logs,), np.mean, n_resamples=_RESAMPLES, confidence_level=_CONFIDENCE, method="BCa", rng=1
    ).confidence_interval
    return ratio, math.exp(found.low), math.exp(found.high)


def noise(results: Results, question: str, metric: str = "time") -> float:
    """By how much an arm of the question differs from itself, as a ratio of at least 1: the largest of its controls.

    A smaller difference between two arms is not called one.
    """
    found = [
        compare(results, question, info.name, info.control, info.control + AGAIN, metric)
        for info in results.cases_of(question)
        if info.control
    ]
    return max((math.exp(abs(math.log(each.ratio))) for each in found if each.ratio > 0), default=1.0)
