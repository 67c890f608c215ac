"""Early close against unregister, wherever both were measured: where it wins, and where it loses."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from _pairs import Values
from _results import Results
from bench_tails import WORKERS


@dataclass(frozen=True)
class Duel:
    """One benchmark under both endings; lower is better."""

    name: str
    early_close: Values
    unregister: Values

    @property
    def ratio(self) -> float:
        """Early close to unregister, of medians."""
        return float(np.median(self.early_close) / np.median(self.unregister))

    @property
    def clear(self) -> bool:
        """Whether the middle halves of the values do not meet."""
        low, high = np.quantile(self.early_close, [0.25, 0.75])
        other_low, other_high = np.quantile(self.unregister, [0.25, 0.75])
        return bool(high < other_low or other_high < low)

    @property
    def text(self) -> str:
        """The ratio, and whether it stands out of the spread."""
        return f"{self.name} ({self.ratio:.2f} times as long{'' if self.clear else ', within the spread'})"


def duels(results: Results) -> list[Duel]:
    """Compare all that the manager was measured at under both endings."""
    return [duel for names in _NAMES for duel in _duels(results, *names)]


# (suite, beginning of the name) of an early close, and of unregister.
_NAMES = [
    (("ending-early-close", "ending/"), ("ending-unregister", "ending/")),
    (("ending-early-close", "stall/"), ("ending-unregister", "stall/")),
    (("restore", "restore/early-close/"), ("restore", "restore/unregister/")),
]
for _worker in WORKERS:
    _tails = f"tails/{_worker}"
    _NAMES.append((("tails", f"{_tails}/early-close/around/"), ("tails", f"{_tails}/unregister/around/")))


def _duels(results: Results, early_close: tuple[str, str], unregister: tuple[str, str]) -> Iterator[Duel]:
    suite, part = early_close
    other_suite, other_part = unregister
    for name in results.names(suite):
        values, others = results.values(suite, name), results.values(other_suite, name.replace(part, other_part))
        if name.startswith(part) and values is not None and others is not None:
            yield Duel(name.replace("/early-close", ""), values, others)
