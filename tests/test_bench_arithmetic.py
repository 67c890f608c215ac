"""What the benchmarks compute from what they measured."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

from _cost_model import fit
from bench_race import configs, wilson


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 100, 0.0, 0.0370), (50, 100, 0.4038, 0.5962), (100, 100, 0.9630, 1.0), (0, 0, 0.0, 1.0)],
)
def test_an_interval_of_confidence(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=1e-4)


def test_the_cost_model_finds_its_constants() -> None:
    constants = np.array([20e-6, 50e-9, 300e-9, 15e-6])
    counts = np.array(
        [(1, many, many, 0) for many in (1, 64, 1024, 16384)]
        + [(1, 1024 + many, 1024, 0) for many in (1000, 30000)]
        + [(1, 64, 64, many) for many in (1, 64, 512)],
        np.float64,
    )
    noise = 1 + 0.01 * np.random.default_rng(1).standard_normal(len(counts))
    model = fit(counts, counts @ constants * noise)
    assert model.constants == pytest.approx(constants, rel=0.1)
    assert (np.abs(model.constants - constants) < 4 * model.errors).all()
    assert 0 < model.misfit < 0.05


def test_the_race_varies_what_it_says() -> None:
    every = list(configs(hugetlb=True))
    assert len(set(every)) == len(every)
    assert {config.memory for config in every} == {"anonymous", "memfd, shared", "hugetlb", "anonymous, THP"}
    assert {(config.write, config.complete) for config in every} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    assert not any(config.kind == "hugetlb" for config in configs(hugetlb=False))
