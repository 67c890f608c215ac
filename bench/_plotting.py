"""What the figures share: colours, formats, and what a figure is."""

from dataclasses import dataclass

import matplotlib
import numpy as np
from _pairs import Values

matplotlib.use("Agg")
from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart; marker, line style or label says the same again.
BLACK, GREY, BLUE, ORANGE = "#000000", "#999999", "#0072B2", "#D55E00"
COLOURS = {"early-close": BLUE, "unregister": ORANGE, "keep-open": "#009E73", "read": "#CC79A7", "mmap": "#E69F00"}


@dataclass(frozen=True)
class Drawn:
    """A figure, and the one sentence of what it shows, made from the same values."""

    sentence: str
    figure: Figure


def seconds(value: float, _position: float | None = None) -> str:
    """Format a time with its unit; also a formatter of axes."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return "0"


def reach(values: Values) -> list[list[float]]:
    """How far all values reach from their median: an error bar that drops none."""
    median = np.median(values)
    return [[float(median - values.min())], [float(values.max() - median)]]
