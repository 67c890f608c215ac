"""Figures of the modes: what letting go costs where pages are resident in different ways."""

from collections.abc import Mapping

import numpy as np
from _axes import MODES, POPULATED, Mode
from _pairs import Values
from _plotting import BLACK, BLUE, ORANGE, Drawn, seconds
from _results import Results
from matplotlib import pyplot

_SUITES: Mapping[Mode, str] = {"missing": "ending-early-close", "wp": "ending-wp", "minor": "ending-minor"}
_LABELS: Mapping[Mode, str] = {
    "missing": "missing",
    "wp": "missing+wp: every page write-protected",
    "minor": "minor: mapped from the page cache",
}


def time_against_pages(results: Results) -> Drawn | None:
    """An early close of one region, for each mode, log-log."""
    times = {mode: _by_pages(results, mode) for mode in MODES}
    if not all(times.values()):
        return None
    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for mode, colour in zip(MODES, (BLUE, ORANGE, BLACK), strict=True):
        medians = [np.median(values) for values in times[mode].values()]
        axes.plot(list(times[mode]), medians, "-o", label=_LABELS[mode], color=colour, markersize=5)
        low, high = [values.min() for values in times[mode].values()], [values.max() for values in times[mode].values()]
        axes.fill_between(list(times[mode]), low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="resident pages of the one region")
    axes.set_ylabel("time of an early close (lower is better)")
    axes.set_xticks(POPULATED, [str(count) for count in POPULATED])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(seconds)
    axes.legend(title="median; band: all values")
    return Drawn(_sentence(times), figure)


def _by_pages(results: Results, mode: Mode) -> dict[int, Values]:
    found = {count: results.values(_SUITES[mode], f"ending/1/pages-{count}") for count in POPULATED}
    return {count: values for count, values in found.items() if values is not None}


def _sentence(times: Mapping[Mode, Mapping[int, Values]]) -> str:
    most = max(times["wp"])
    last = {mode: seconds(np.median(times[mode][most])) for mode in MODES}
    return (
        f"Letting go of one region of {most} resident pages takes {last['missing']} by an early close, {last['minor']} "
        f"where they are mapped from the page cache, and {last['wp']} where each is write-protected."
    )
