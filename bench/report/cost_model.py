"""What an ending costs the kernel, as a sum of its parts, fitted to the bare loops.

The time of an ending is taken as base + VMAs of the target + regions + waiting threads, each with a constant of its own
(one visit of a VMA; one region taken away from the userfaultfd, with UNREGISTER's system call where there is one; one
thread woken). Weighted by the reciprocal of each time, so that the small ones count as much as the large ones.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from ..arms import bare
from .results import Results, Values
from .words import seconds

PARTS = ("once", "each VMA of the target", "each region", "each waiting thread")
_ENDINGS = ("early-close", "unregister")


@dataclass(frozen=True)
class CostModel:
    """The constants of one ending.

    Attributes:
        constants: Seconds, in the order of ``PARTS``.
        errors: Their standard errors, from what the model leaves over.
        misfit: The largest relative distance between a median and the model.
    """

    constants: Values
    errors: Values
    misfit: float


def cost_model(results: Results, ending: str) -> CostModel | None:
    """Fit the model; None where not all axes were measured."""
    points = list(_points(results, ending))
    counts = np.array([count for count, _ in points], np.float64)
    times = np.array([time for _, time in points], np.float64)
    if not len(points) or np.isnan(times).any() or (counts.max(axis=0) == 0).any():
        return None
    return fit(counts, times)


def _points(results: Results, ending: str) -> "list[tuple[tuple[int, int, int, int], float]]":
    found = []
    for question in ("ending", "meetings"):
        for info in results.cases_of(question):
            told = info.parameters
            if told.get("setup") != "across" or "beside" in told:
                continue
            regions = int(told["regions"])
            counts = (1, regions + int(told.get("unrelated_vmas", 0)), regions, int(told.get("waiting", 0)))
            found.append((counts, results.median(question, info.name, bare(ending))))
    return found


def fit(counts: Values, times: Values) -> CostModel:
    """Fit times = counts @ constants by least squares of the relative distances."""

    def model(every: Values, *constants: float) -> Values:
        times: Values = every @ np.array(constants)
        return times

    start = np.full(counts.shape[1], times.min())
    constants, covariance = curve_fit(model, counts, times, p0=start, sigma=times)
    misfit = np.abs(model(counts, *constants) / times - 1).max()
    return CostModel(constants, np.sqrt(np.diag(covariance)), float(misfit))


def table(results: Results) -> pd.DataFrame:
    """A row of each ending that can be fitted."""
    rows = []
    for ending in _ENDINGS:
        model = cost_model(results, ending)
        if model is not None:
            fitted = zip(model.constants, model.errors, strict=True)
            rows.append((ending, *(f"{seconds(value)} ± {seconds(error)}" for value, error in fitted), model.misfit))
    found: pd.DataFrame = pd.DataFrame(rows, columns=["ending", *PARTS, "largest misfit"])
    return found
