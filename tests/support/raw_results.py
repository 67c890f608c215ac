"""Raw results of benchmarks, made up: for tests of what is told of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import arms
from bench.harness.records import Records

# By arm and metric.
Values = Mapping[str, Mapping[str, float | None]]

QUIET = {"seconds": 1.0, "steal": 0.0, "others": 0.01, "pressure": None, "load": 0.5, "mhz": None}
_METADATA = {"git_commit": "abc", "date": "2026-11-01 10:00:00", "kernel": "6.18", "cpu_count": 2}
_PROCESSES = 6


def write_case(
    folder: Path,
    rounds: Sequence[Sequence[Values]],
    *,
    question: str = "ending",
    case: str = "4096 regions",
    pairs: Sequence[tuple[str, str]] = (("unregister", "early-close"),),
    control: str = "early-close",
    parameters: Mapping[str, Any] | None = None,
    business: Mapping[str, Any] = QUIET,
    arrays: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    headline: bool = True,
) -> None:
    """Write raw results of a case: a list of rounds for each process; the first of each does not count."""
    records = Records(folder)
    about: dict[str, Any] = {
        "case": case,
        "parameters": parameters or {"setup": "across", "regions": 4096},
        "pairs": pairs,
    }
    about |= {"unit": "second", "control": control, "headline": headline}
    for process, values in enumerate(rounds):
        of = {"process": process}
        records.append(question, {"kind": "process", "seed": 1, "metadata": _METADATA, **of})
        records.append(question, {"kind": "case", **of, **about})
        for number, each in enumerate(values, -1):
            record = {"kind": "round", "case": case, "round": number, "values": each, **of}
            records.append(question, record | ({"arrays": arrays} if arrays else {}))
        records.append(question, {"kind": "done", "case": case, "business": business, **of})


def write_headline(folder: Path) -> None:
    """Write results of all that the headline asks, as a machine gives them, roughly."""
    for regions in (1, 64, 1024, 4096, 16384):
        early, late = 12e-6 + 290e-9 * regions, 14e-6 + 1e-6 * regions
        seconds = {"early-close": early, "unregister": late, "keep-open": None}
        seconds |= {arms.bare("early-close"): early, arms.bare("unregister"): late}
        parameters = {"setup": "across", "regions": regions}
        _write(folder, "ending", arms.many(regions, "region"), {"time": seconds}, parameters)
    endings = {"early-close": 1.2, "unregister": 1.5, "keep-open": 1.0}
    metrics = {
        f"{quantile} {window}": {ending: base * by for ending, by in endings.items()}
        for quantile, base in (("p50", 1e-7), ("p99", 4e-7), ("p99.9", 5e-7), ("max", 3e-5), ("pace", 1e-7))
        for window in ("before", "around")
    }
    for worker in ("target", "fault", "mmap"):
        timelines = {ending: {"timeline": [1000] * 30 + [600] * 4 + [1000] * 36} for ending in endings}
        told: dict[str, Any] = {"setup": "across", "regions": 4096, "placement": "free", "beside": worker}
        told["timeline_begins_ms"] = -30
        _write(folder, "tails", f"beside {worker}", metrics, told, timelines)
    fault = {arms.LOOP: 48e-6, "auto": 17e-6, "adopt": 7e-6, arms.FLOOR: 6.5e-6}
    _write(folder, "fault", "one fault, another process", {"time": fault}, {"setup": "across"})
    inline = {"inline": 5.2e-6, arms.BARE_SIGBUS: 4.9e-6}
    _write(folder, "fault", "one fault, this process, inline", {"time": inline}, {"setup": "in-process"})
    fill = {arms.MEMCPY: 2e-7, arms.filler(1): 9e-7, arms.filler(2): 5e-7, arms.bulk_copy(1): 9e-7}
    _write(folder, "fill", "fill, across", {"time": fill}, {"setup": "across"})
    work = {"early-close": 0.147, "unregister": 0.148, "keep-open": 0.146, arms.read_by(2): 0.15, "mmap": 0.053}
    _write(folder, "restore", "at work, 2 fillers", {"native": work, "work": work}, {})
    alone = {arms.filled_by(2): 0.07, arms.read_by(2): 0.094}
    _write(folder, "restore", "alone, two CPUs", {"native": alone}, {})


def _write(
    folder: Path,
    question: str,
    case: str,
    metrics: Mapping[str, Mapping[str, float | None]],
    parameters: Mapping[str, Any],
    arrays: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
) -> None:
    """Write a case, with some scatter."""
    random = np.random.default_rng(1)
    every = list(next(iter(metrics.values())))

    def scattered() -> Values:
        return {
            arm: {
                metric: None if (value := of[arm]) is None else value * float(random.lognormal(0, 0.03))
                for metric, of in metrics.items()
            }
            for arm in every
        }

    rounds = [[scattered() for _ in range(3)] for _ in range(_PROCESSES)]
    pairs = [(every[0], other) for other in every[1:]] + [("unregister", "early-close")] * ("unregister" in every)
    write_case(
        folder, rounds, question=question, case=case, pairs=pairs, control="", parameters=parameters, arrays=arrays
    )
