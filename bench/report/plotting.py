"""What the figures share: what an arm looks like, and how values are drawn so that their spread is seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .words import seconds

mpl.use("svg")

# Okabe and Ito's palette, which the colour-blind can tell apart; the marker says the same again.
BLACK, GREY, BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    "#000000", "#7f7f7f", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """Of an arm, in every figure; a bare loop is that of the manager, hollow."""

    colour: str
    marker: str
    hollow: bool = False


_LOOKS: Mapping[str, Look] = {
    "early-close": Look(BLUE, "o"),
    "unregister": Look(ORANGE, "s"),
    "keep-open": Look(GREEN, "^"),
    "poll loop and a pool": Look(PINK, "X"),
    "poll loop": Look(ORANGE, "s"),
    "adopt": Look(BLUE, "o"),
    "auto, unprivileged": Look(GREEN, "^"),
    "auto": Look(SKY, "D"),
    "free": Look(SKY, "d"),
    "inline": Look(BLUE, "P"),
    "fill": Look(BLUE, "o"),
    "manager, fill": Look(SKY, "v"),
    "manager": Look(BLUE, "o"),
    "SharedImage, arriving": Look(SKY, "D"),
    "SharedImage": Look(BLUE, "o"),
    "missing+wp": Look(ORANGE, "s"),
    "missing": Look(BLUE, "o"),
    "minor": Look(GREEN, "^"),
    "pyuffd": Look(BLUE, "o"),
    "mmap": Look(YELLOW, "v"),
    "np.memmap": Look(YELLOW, "<"),
    "plain mappings": Look(YELLOW, "v"),
    "read()": Look(PINK, "X"),
    "a copy each": Look(ORANGE, "s"),
    "one handler": Look(ORANGE, "s"),
    "a handler each": Look(BLUE, "o"),
}
_OTHER = Look(GREY, "x")


def look_of(arm: str) -> Look:
    """By the word that its name begins with; a floor or a copy is grey."""
    look = next((look for word, look in _LOOKS.items() if arm.startswith(word)), _OTHER)
    return replace(look, hollow=arm.endswith("bare"))


@dataclass(frozen=True)
class Drawn:
    """A figure.

    Attributes:
        name: Of its file.
        title: What it shows, as a finding that was computed.
        note: How it is to be read.
    """

    name: str
    title: str
    note: str
    figure: Figure


SPREAD = "Markers: medians; thick lines: the middle half of the values; thin lines: all of them. Lower is better."


def figure(width: float = 7.5, height: float = 4.5) -> Figure:
    """A blank one."""
    return Figure(figsize=(width, height), layout="constrained")


def point(axes: Axes, where: float, values: pd.Series, arm: str, *, across: bool, label: str = "") -> None:
    """Median, middle half and range at a position: of x where they run across, else of y."""
    found = values.dropna().to_numpy()
    if not found.size:
        return
    look = look_of(arm)
    low, first, middle, third, high = np.quantile(found, [0, 0.25, 0.5, 0.75, 1])
    for begin, end, width in ((low, high, 1.0), (first, third, 3.5)):
        line = ([begin, end], [where, where]) if across else ([where, where], [begin, end])
        axes.plot(*line, color=look.colour, linewidth=width, alpha=0.55, solid_capstyle="round", zorder=2)
    place = (middle, where) if across else (where, middle)
    face = "white" if look.hollow else look.colour
    axes.plot(*place, look.marker, color=look.colour, markerfacecolor=face, markersize=7, label=label or None, zorder=3)


def dots(
    axes: Axes,
    values: Mapping[str, pd.Series],
    text: Callable[[str, float], str] | None = None,
) -> None:
    """A line of each arm, one below the other, with its median in words."""
    for row, (arm, found) in enumerate(values.items()):
        point(axes, row, found, arm, across=True)
        middle = float(found.median())
        words = text(arm, middle) if text else seconds(middle)
        axes.annotate(words, (middle, row), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.7)
    axes.grid(axis="x", which="both", alpha=0.2)


def dot_panels(panels: Mapping[str, Mapping[str, pd.Series]], xlabel: str, *, log: bool) -> Figure:
    """A panel of each title, all with the same axis of times."""
    heights = [len(arms) for arms in panels.values()]
    drawn = figure(8.5, 0.55 * sum(heights) + 0.7 * len(panels) + 0.7)
    every = drawn.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, arms) in zip(every, panels.items(), strict=True):
        if log:
            axes.set_xscale("log")
        dots(axes, arms)
        axes.set_title(title, fontsize=10)
    if not log:
        every[-1].set_xlim(0, None)
    times_on(every[-1].xaxis)
    every[-1].set_xlabel(xlabel)
    return drawn


def lines(axes: Axes, arms: Mapping[str, Mapping[float, pd.Series]]) -> None:
    """Medians against a number, each with its spread."""
    for arm, found in arms.items():
        look = look_of(arm)
        medians = [values.median() for values in found.values()]
        style = ":" if arm.endswith("bare") else "-"
        axes.plot(list(found), medians, style, color=look.colour, linewidth=1.2, zorder=1)
        for number, (where, values) in enumerate(found.items()):
            point(axes, where, values, arm, across=False, label=arm if number == 0 else "")
    axes.grid(which="both", alpha=0.2)


def times_on(axis: "mpl.axis.Axis") -> None:
    """Plain units, and enough ticks on a logarithmic axis."""
    axis.set_major_formatter(EngFormatter(unit="s"))
    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(_ticks(high / low))
        axis.set_minor_formatter(NullFormatter())


def _ticks(ratio: float) -> Locator:
    """For a logarithmic axis whose end is so many times its beginning."""
    if ratio < 4:
        return MaxNLocator(5)
    return LogLocator(subs=(1.0,) if ratio > 200 else (1.0, 2.0, 5.0), numticks=20)


def counts_on(axis: "mpl.axis.Axis", counts: Sequence[float]) -> None:
    """A tick at each of the numbers, and no other."""
    axis.set_ticks(list(counts), [f"{count:g}" for count in counts])
    axis.set_minor_locator(NullLocator())
