"""The tables of a report."""

import math

import numpy as np
import pandas as pd

from .answers import quiet
from .goals import goals
from .judge import Comparison, Noise, compare, noise
from .results import Results
from .words import interval, seconds, times


def of_comparisons(results: Results, *, headline_only: bool) -> pd.DataFrame:
    """What is compared in each case, by its main metrics."""
    rows = []
    for info in results.cases.values():
        if headline_only and not info.headline:
            continue
        for arm, other in info.pairs:
            for metric in _metrics(results, info.question, info.name, arm):
                found = compare(results, info.question, info.name, arm, other, metric)
                if not math.isnan(found.ratio):
                    rows.append(_row(found, noise(results, info.question, info.name, metric), info.unit))
    columns = ["question", "case", "metric", "arm", "median", "to", "its median", "ratio", "95 %", ""]
    table: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return table


_MAIN = ("time", "native", "work", "fault", "fill", "waited", "p99", "p99 around", "max around", "pace around")


def _metrics(results: Results, question: str, case: str, arm: str) -> list[str]:
    rows = results.values
    found = rows[(rows.question == question) & (rows.case == case) & (rows.arm == arm)].metric.unique()
    return [metric for metric in found if metric in _MAIN]


def _row(found: Comparison, aa: Noise, unit: str) -> tuple[str, ...]:
    def of(value: float) -> str:
        return seconds(value) if unit == "second" else f"{value:.4g} {unit}s"

    relation = found.relation(aa)
    return (
        found.question, found.case, found.metric, found.arm, of(found.median), found.other, of(found.other_median),
        times(found.ratio), interval(found).removeprefix("95 % "), "" if relation == "differs" else relation,
    )  # fmt: skip


def of_goals(results: Results) -> pd.DataFrame:
    """What must be reached, where it was measured."""
    rows = []
    for goal in goals():
        found = goal.outcome(results)
        if found.verdict != "not measured":
            rows.append((goal.what, found.measured, found.interval, goal.bound, found.verdict))
    table: pd.DataFrame = pd.DataFrame(rows, columns=["goal", "measured", "95 %", "must be", "verdict"])
    return table


def of_values(results: Results, *, headline_only: bool) -> pd.DataFrame:
    """The median of everything."""
    rows = results.values
    if headline_only:
        shown = [results.cases[key].headline for key in zip(rows.question, rows.case, strict=True)]
        rows = rows[np.array(shown, bool)]
    found = rows.groupby(["question", "case", "arm", "metric"], sort=False).value
    table: pd.DataFrame = found.agg(["median", "min", "max", "count"]).reset_index()
    units = [results.cases[question, case].unit for question, case in zip(table.question, table.case, strict=True)]
    for column in ("median", "min", "max"):
        table[column] = [
            "none" if math.isnan(value) else seconds(value) if unit == "second" else f"{value:.6g} {unit}s"
            for value, unit in zip(table[column], units, strict=True)
        ]
    return table


def of_run(results: Results) -> pd.DataFrame:
    """Where, when and how it was measured."""

    def told(key: str) -> str:
        return ", ".join(results.told(key)) or "unknown"

    dates = results.told("date")
    per_case = results.values.groupby(["question", "case"]).process.nunique()
    rows = [
        ("measured", f"{dates[0][:16]} to {dates[-1][:16]}" if dates else "unknown"),
        ("effort", f"{per_case.min()} to {per_case.max()} processes of each case" if len(per_case) else "none"),
        ("seed", told("seed")),
        ("commit", f"{told('git_commit')}, pyuffd {told('pyuffd_version')}, {told('pyuffd_build_type')}"),
        ("CPU", f"{told('cpu_model_name')}, {told('cpu_count')} CPUs"),
        ("kernel", f"Linux {told('kernel')}, release generation {told('release_generation')}"),
        ("transparent huge pages", told("transparent_hugepage")),
        ("business", quiet(results)),
    ]
    table: pd.DataFrame = pd.DataFrame(rows, columns=["", " "])
    return table
