"""The raw results of a folder, as one table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..harness.case import AGAIN
from ..harness.layout import layout_in
from ..harness.records import Record, RecordError, Records

Values = npt.NDArray[np.float64]

_COLUMNS = ("question", "case", "arm", "metric", "process", "round", "value")


_NONE: "pd.Series[float]" = pd.Series(
    [], dtype=float, name="value", index=pd.MultiIndex.from_arrays([[], []], names=["process", "round"])
)


@dataclass(frozen=True)
class CaseInfo:
    """What the records say of a case."""

    question: str
    name: str
    parameters: dict[str, Any]
    pairs: Sequence[tuple[str, str]]
    unit: str
    control: str
    headline: bool


@dataclass
class Results:
    """All that was measured.

    Attributes:
        values: A row for each value: question, case, arm, metric, process, round and value, which is NaN where the arm
            had none that time. Rounds that do not count are left out.
        cases: By question and name, in the order in which they were first measured.
        arrays: By question, case, arm and name: an array of each counted round.
        processes: What each worker told of itself.
        business: How busy the machine was in each case of each process.
        failures: What went wrong, one sentence each.
        skipped: What this machine or user cannot run, and why.
        image: Of which program the restored memory is, and its layout; None where none was captured.
    """

    values: pd.DataFrame
    cases: dict[tuple[str, str], CaseInfo]
    arrays: dict[tuple[str, str, str, str], list[npt.NDArray[np.int64]]]
    processes: list[dict[str, Any]]
    business: pd.DataFrame
    failures: list[str]
    skipped: list[str]
    image: Mapping[str, Any] | None = None

    def of(self, question: str, case: str, arm: str, metric: str = "time") -> "pd.Series[float]":
        """Values by (process, round); empty where there are none."""
        return self._by_key.get((question, case, arm, metric), _NONE)

    @cached_property
    def _by_key(self) -> "dict[Any, pd.Series[float]]":
        """The same for every key at once: a scan of the table for each would take a report a minute."""
        groups = self.values.groupby(["question", "case", "arm", "metric"], sort=False, observed=True)
        return {key: rows.set_index(["process", "round"])["value"] for key, rows in groups}

    def median(self, question: str, case: str, arm: str, metric: str = "time") -> float:
        """Of all values; NaN where there are none."""
        return float(self.of(question, case, arm, metric).median())

    def cases_of(self, question: str) -> list[CaseInfo]:
        """In their order."""
        return [info for (of, _), info in self.cases.items() if of == question]

    def arms_of(self, question: str, case: str) -> list[str]:
        """Of a case, in the order in which they were first measured, with the second measurement of a control."""
        rows = self.values
        return list(rows[(rows.question == question) & (rows.case == case)].arm.unique())

    def by_arm(self, question: str, case: str, metric: str = "time") -> "dict[str, pd.Series[float]]":
        """The values of each arm of a case that has any, the slowest first, without a control's second ones."""
        rows = self.values
        chosen = rows[(rows.question == question) & (rows.case == case) & (rows.metric == metric)]
        arms = [str(arm) for arm in chosen.arm.unique() if not str(arm).endswith(AGAIN)]
        found = {arm: self.of(question, case, arm, metric) for arm in arms}
        known = {arm: values for arm, values in found.items() if values.notna().any()}
        return dict(sorted(known.items(), key=lambda item: -float(item[1].median())))

    def told(self, key: str) -> list[str]:
        """What the workers told of themselves, each answer once."""
        return sorted({str(process[key]) for process in self.processes if key in process})


def load(folder: Path) -> Results:
    """Read what a run has left in its folder.

    Raises:
        RecordError: There is nothing, or it cannot be read.
    """
    records = Records(folder)
    loader = _Loader()
    for question in records.questions:
        for record in records.read(question):
            loader.take(question, record)
    results = loader.results()
    results.image = layout_in(folder)
    if results.values.empty and not results.failures and not results.skipped:
        raise RecordError(f"{folder} has no results: measure first, with --out {folder}")
    return results


@dataclass
class _Loader:
    """Takes one record after the other."""

    cases: dict[tuple[str, str], CaseInfo] = field(default_factory=dict)
    rounds: dict[tuple[str, str, int], list[Record]] = field(default_factory=dict)
    business: dict[tuple[str, str, int], Record] = field(default_factory=dict)
    failures: dict[tuple[str, str, int], str] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)

    def take(self, question: str, record: Record) -> None:
        kind = record["kind"]
        if kind == "process":
            self.processes.append(record["metadata"] | {"seed": record["seed"]})
            return
        case = record["case"]
        if kind == "skipped":
            self.skipped[question, case] = record["why"]
            return
        key = (question, case, record["process"])
        if kind == "case":
            self.cases[question, case] = _case_info(question, record)
            self.rounds[key] = []
            self.failures.pop(key, None)
        elif kind == "round":
            if key not in self.rounds:
                raise RecordError(f"{question}.jsonl has a round of {case!r} before the case: remove the file")
            self.rounds[key].append(record)
        elif kind == "done":
            self.business[key] = record["business"]
        elif kind == "failed":
            self.failures[key] = record["why"]

    def results(self) -> Results:
        rows = [row for key, rounds in self.rounds.items() for row in _rows(*key, rounds)]
        arrays: dict[tuple[str, str, str, str], list[npt.NDArray[np.int64]]] = {}
        for (question, case, _), rounds in self.rounds.items():
            for record in rounds:
                if record["round"] < 0:
                    continue
                for arm, found in record.get("arrays", {}).items():
                    for name, array in found.items():
                        arrays.setdefault((question, case, arm, name), []).append(np.array(array))
        keys = ("question", "case", "process")
        return Results(
            values=pd.DataFrame(rows, columns=_COLUMNS).astype({"value": float}),
            cases=self.cases,
            arrays=arrays,
            processes=self.processes,
            business=pd.DataFrame([dict(zip(keys, key, strict=True)) | found for key, found in self.business.items()]),
            failures=[
                f"{question}, {case}, process {process}: {why}"
                for (question, case, process), why in (self.failures | self._unfinished()).items()
            ],
            skipped=[f"{question}, {case}: {why}" for (question, case), why in self.skipped.items()],
        )

    def _unfinished(self) -> dict[tuple[str, str, int], str]:
        """What was begun, and neither came to its end nor failed: the run was interrupted there."""
        began = self.rounds.keys() - self.business.keys() - self.failures.keys()
        return dict.fromkeys(sorted(began), "was not finished")


def _case_info(question: str, record: Record) -> CaseInfo:
    pairs = [(first, second) for first, second in record["pairs"]]
    return CaseInfo(
        question, record["case"], record["parameters"], pairs, record["unit"], record["control"], record["headline"]
    )


def _rows(question: str, case: str, process: int, rounds: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
    for record in rounds:
        if record["round"] < 0:
            continue
        for arm, metrics in record["values"].items():
            for metric, value in metrics.items():
                yield question, case, arm, metric, process, record["round"], np.nan if value is None else value
