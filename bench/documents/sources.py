"""The published results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kernels._report import read_raw
from ..kernels._run import Run
from ..report.results import Results, load


@dataclass(frozen=True)
class Sources:
    """What documents may quote.

    Attributes:
        results: Of ``bench --full``.
        apart: Of a question's full run of its own, where that is newer.
        race: Of ``bench.race``.
        kernels: Of ``bench.kernels``, by the kernels' names.
    """

    results: Results
    apart: dict[str, Results]
    race: dict[str, Any]
    kernels: dict[str, Run]

    @classmethod
    def load(cls, docs: Path) -> "Sources":
        """Read them from where they are published."""
        runs: Sequence[Run] = read_raw(docs / "results-kernels")
        return cls(
            load(docs / "results"),
            {"guard": load(docs / "results-guard"), "criu": load(docs / "results-criu")},
            json.loads((docs / "results-kernels/race.json").read_text()),
            {run.name: run for run in runs},
        )

    def of(self, question: str) -> Results:
        """The results that answer a question."""
        return self.apart.get(question, self.results)
