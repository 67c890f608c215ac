"""Figures of what else an ending meets: unrelated VMAs, waiting threads, and work of the target."""

from collections.abc import Mapping

import numpy as np
from _axes import ENDINGS, UNRELATED_VMAS, WAITING, WORKERS_BESIDE
from _pairs import Values
from _plotting import COLOURS, GREY, Drawn, reach, seconds
from _results import Results
from bench_ending import REGIONS_AMONG_VMAS, REGIONS_BESIDE, REGIONS_OF_WAITERS
from matplotlib import pyplot
from matplotlib.axes import Axes

_Times = Mapping[str, Mapping[int, Values]]  # by ending and by count

_WORK = {
    "target": "reads resident\nmanaged pages",
    "fault": "faults on\nother memory",
    "mmap": "maps, touches\nand unmaps",
    "populate": "populates\n4 MiB at a time",
}


def ending_cost(results: Results) -> Drawn | None:
    """Time of the ending against unrelated VMAs and against waiting threads."""
    vmas = _times(
        results,
        {0: f"ending-floor/{REGIONS_AMONG_VMAS}"}
        | {many: f"ending-floor/{REGIONS_AMONG_VMAS}/vmas-{many}" for many in UNRELATED_VMAS},
    )
    waiting = _times(results, {many: f"ending-floor/{REGIONS_OF_WAITERS}/waiting-{many}" for many in WAITING})
    if vmas is None or waiting is None:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    _lines(left, vmas, f"unrelated VMAs in the target ({REGIONS_AMONG_VMAS} regions)")
    _lines(right, waiting, f"threads that wait for a missing page ({REGIONS_OF_WAITERS} regions)")
    left.set_ylabel("time of the bare loop (lower is better)")
    left.legend(title="median; lines: all values")
    return Drawn(_cost_sentence(vmas, waiting), figure)


def _times(results: Results, names: Mapping[int, str]) -> _Times | None:
    times = {
        ending: {count: results.values(f"ending-{ending}", name) for count, name in names.items()} for ending in ENDINGS
    }
    if any(values is None for found in times.values() for values in found.values()):
        return None
    return {
        ending: {count: values for count, values in found.items() if values is not None}
        for ending, found in times.items()
    }


def _lines(axes: Axes, times: _Times, label: str) -> None:
    for ending, found in times.items():
        medians = [np.median(values) for values in found.values()]
        spread = np.hstack([reach(values) for values in found.values()])
        axes.errorbar(list(found), medians, yerr=spread, fmt="-o", color=COLOURS[ending], label=ending, capsize=3)
    axes.set(xlabel=label, ylim=(0, None))
    axes.yaxis.set_major_formatter(seconds)
    axes.grid(alpha=0.3)


def _cost_sentence(vmas: _Times, waiting: _Times) -> str:
    def grown(times: _Times, ending: str) -> str:
        first, *_, last = (float(np.median(values)) for values in times[ending].values())
        return f"from {seconds(first)} to {seconds(last)}"

    return (
        f"With {max(UNRELATED_VMAS)} unrelated VMAs in the target an early close grows {grown(vmas, 'early-close')} "
        f"and unregister {grown(vmas, 'unregister')}; with {max(WAITING)} waiting threads they grow "
        f"{grown(waiting, 'early-close')} and {grown(waiting, 'unregister')}."
    )


def stalls(results: Results) -> Drawn | None:
    """The longest access of a thread of the target around the ending, by what it does."""
    found = {
        (regions, worker, ending): _stall(results, regions, worker, ending)
        for regions in REGIONS_BESIDE
        for worker in WORKERS_BESIDE
        for ending in ENDINGS
    }
    pairs: dict[tuple[int, str, str], tuple[Values, Values]] = {
        key: values for key, values in found.items() if values is not None
    }
    if len(pairs) < len(found):
        return None
    figure, panels = pyplot.subplots(1, len(REGIONS_BESIDE), figsize=(11, 4.5), sharey=True, layout="constrained")
    for axes, regions in zip(panels, REGIONS_BESIDE, strict=True):
        for position, worker in enumerate(WORKERS_BESIDE):
            for shift, ending in zip((-0.2, 0.2), ENDINGS, strict=True):
                before, around = pairs[regions, worker, ending]
                _bar(axes, position + shift - 0.09, before, GREY, "before it")
                _bar(axes, position + shift + 0.09, around, COLOURS[ending], f"around {ending}")
        axes.set_xticks(range(len(WORKERS_BESIDE)), [_WORK[worker] for worker in WORKERS_BESIDE], fontsize=8)
        axes.set(yscale="log", title=f"{regions} regions")
    panels[0].set_ylabel("longest access (lower is better)")
    panels[0].yaxis.set_major_formatter(seconds)
    handles, labels = panels[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    title = "median; lines: all values"
    figure.legend(list(once.values()), list(once), loc="outside upper center", ncols=len(once), fontsize=8, title=title)
    return Drawn(_stall_sentence(pairs), figure)


def _stall(results: Results, regions: int, worker: str, ending: str) -> tuple[Values, Values] | None:
    suite, name = f"ending-{ending}", f"{regions}/beside-{worker}"
    before, around = results.values(suite, f"stall-before/{name}"), results.values(suite, f"stall/{name}")
    return None if before is None or around is None else (before, around)


def _bar(axes: Axes, position: float, values: Values, colour: str, label: str) -> None:
    axes.bar(position, np.median(values), 0.17, yerr=reach(values), color=colour, label=label, capsize=2)


def _stall_sentence(pairs: Mapping[tuple[int, str, str], tuple[Values, Values]]) -> str:
    def longest(worker: str, ending: str) -> str:
        return seconds(float(np.median(pairs[max(REGIONS_BESIDE), worker, ending][1])))

    each = (
        f"{longest(worker, 'early-close')} and {longest(worker, 'unregister')} if it {' '.join(_WORK[worker].split())}"
        for worker in WORKERS_BESIDE
    )
    return (
        f"Around the ending of {max(REGIONS_BESIDE)} regions the longest access of a thread of the target takes, with "
        f"an early close and with unregister, {'; '.join(each)}."
    )
