"""What an ending costs the kernel, as a sum of its parts, fitted to the bare loops.

The time of an ending is taken as base + VMAs of the target + regions + waiting threads, each with a constant of its own
(one visit of a VMA; one region taken away from the userfaultfd, with the system calls UNREGISTER and WAKE where they
are made; one thread woken). Weighted by the reciprocal of each time, so that the small ones count as much as the large
ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from _axes import REGIONS, UNRELATED_VMAS, WAITING
from _pairs import Values
from _plotting import seconds
from _results import Results
from bench_ending import REGIONS_AMONG_VMAS, REGIONS_OF_WAITERS

PARTS = ("once", "each VMA of the target", "each region", "each waiting thread")


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

    def row(self, ending: str) -> tuple[str, ...]:
        """For a table."""
        fitted = zip(self.constants, self.errors, strict=True)
        return (ending, *(f"{_signed(value)} +- {seconds(error)}" for value, error in fitted), f"{self.misfit:.0%}")


def cost_model(results: Results, ending: str) -> CostModel | None:
    """Fit the model; None where not all axes were measured."""
    suite = f"ending-{ending}"
    points = [(f"ending-floor/{regions}", (1, regions, regions, 0)) for regions in REGIONS]
    points += [
        (f"ending-floor/{REGIONS_AMONG_VMAS}/vmas-{vmas}", (1, REGIONS_AMONG_VMAS + vmas, REGIONS_AMONG_VMAS, 0))
        for vmas in UNRELATED_VMAS
    ]
    points += [
        (f"ending-floor/{REGIONS_OF_WAITERS}/waiting-{many}", (1, REGIONS_OF_WAITERS, REGIONS_OF_WAITERS, many))
        for many in WAITING
    ]
    times = [results.median(suite, name) for name, _ in points]
    if None in times:
        return None
    return fit(np.array([counts for _, counts in points], np.float64), np.array(times, np.float64))


def fit(counts: Values, times: Values) -> CostModel:
    """Fit times = counts @ constants by least squares of the relative distances."""
    scaled = counts / times[:, None]
    constants, *_ = np.linalg.lstsq(scaled, np.ones(len(times)), rcond=None)
    left_over = scaled @ constants - 1
    variance = left_over @ left_over / (len(times) - len(constants))
    errors = np.sqrt(np.diag(variance * np.linalg.inv(scaled.T @ scaled)))
    return CostModel(constants.astype(np.float64), errors, float(np.abs(left_over).max()))


def _signed(value: float) -> str:
    return seconds(value) if value >= 0 else f"-{seconds(-value)}"


def rows(results: Results, endings: Sequence[str]) -> list[tuple[str, ...]]:
    """One of each ending that can be fitted."""
    models = ((ending, cost_model(results, ending)) for ending in endings)
    return [model.row(ending) for ending, model in models if model is not None]
