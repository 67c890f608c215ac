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
        results: Of ``bench --full --rigorous``.
        default: Of ``bench --only default --rigorous``.
        race: Of ``bench.race``.
        kernels: Of ``bench.kernels``, by the kernels' names.
    """

    results: Results
    default: Results
    race: dict[str, Any]
    kernels: dict[str, Run]

    def of(self, question: str) -> Results:
        """The run that asked it last."""
        return self.default if question in {asked for asked, _ in self.default.cases} else self.results

    @classmethod
    def load(cls, docs: Path) -> "Sources":
        """Read them from where they are published."""
        runs: Sequence[Run] = read_raw(docs / "results-kernels")
        return cls(
            load(docs / "results"),
            load(docs / "results-default"),
            json.loads((docs / "results-kernels/race.json").read_text()),
            {run.name: run for run in runs},
        )
