"""Draws figures, each by itself: what cannot be drawn of partial results is told, and loses no report."""

from collections.abc import Callable, Iterator, Sequence

from .plotting import Drawn
from .results import Results

Draw = Callable[[Results], Drawn | None]


def drawn_of(results: Results, functions: Sequence[Draw]) -> Iterator[Drawn]:
    """Give the figures of all functions whose results are there."""
    for draw in functions:
        try:
            drawn = draw(results)
        except (ArithmeticError, LookupError, ValueError) as error:
            # Some arm or window that the figure tells of has no values.
            results.failures.append(f"the figure {draw.__name__} was not drawn, since results lack: {error!r}")
            continue
        if drawn is not None:
            yield drawn
