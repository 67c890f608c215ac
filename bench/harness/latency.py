"""Quantiles of latency histograms, never averaged: those of several threads or windows are made from summed counts."""

import numpy as np
import numpy.typing as npt

from pyuffd import _workload

Counts = npt.NDArray[np.uint64]

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
NAMES = (*QUANTILES, "max")

_BOUNDS = _workload.bucket_bounds()


def quantiles(histogram: Counts, max_ns: int) -> dict[str, float]:
    """Seconds that 50 %, 99 % and 99.9 % of the accesses did not exceed, and their maximum.

    Args:
        histogram: Counts by bucket, which are 12.5 % wide: the quantiles are as exact.
        max_ns: The longest access, which is exact.

    Returns:
        By the names in ``NAMES``.

    Raises:
        ValueError: There was no access.
    """
    total = int(histogram.sum())
    if total == 0:
        raise ValueError("a window without any access has no quantiles")
    counts = np.cumsum(histogram)
    found = {name: float(_BOUNDS[np.searchsorted(counts, share * total)]) * 1e-9 for name, share in QUANTILES.items()}
    return found | {"max": max_ns * 1e-9}
