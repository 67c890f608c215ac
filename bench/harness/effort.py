"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How often each case is measured: in so many worker processes, so many rounds in each."""

    name: str
    processes: int
    rounds: int


EFFORTS = {
    effort.name: effort
    for effort in (Effort("fast", 3, 3), Effort("headline", 6, 4), Effort("normal", 10, 3), Effort("rigorous", 12, 5))
}
