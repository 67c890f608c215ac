"""Figures of the ending: its time, and whom it disturbs."""

from collections.abc import Mapping, Sequence

import numpy as np
from _axes import ENDINGS, REGIONS
from _latency import NAMES
from _pairs import Values
from _plotting import BLACK, COLOURS, Drawn, seconds
from _results import Results
from _watch import Worker
from bench_tails import SHOWN, WORKERS
from matplotlib import pyplot
from matplotlib.axes import Axes

_WORK = {
    "target": "the target reads resident managed pages",
    "fault": "a bystander faults on memory nobody manages",
    "mmap": "a bystander maps, touches and unmaps memory",
}
_MANY_REGIONS = 1024


def time_against_regions(results: Results) -> Drawn | None:
    """Both endings and their bare loops, log-log."""
    times = {ending: _by_regions(results, ending, "ending") for ending in ENDINGS}
    common = sorted(set.intersection(*(set(found) for found in times.values())))
    if not common:
        return None
    figure, axes = pyplot.subplots(figsize=(7.5, 5), layout="constrained")
    for ending in ENDINGS:
        _line(axes, times[ending], COLOURS[ending], ending, "-o")
        _line(axes, _by_regions(results, ending, "ending-floor"), COLOURS[ending], f"{ending}: bare loop", ":x")
    axes.set(xscale="log", yscale="log", xlabel="regions (one VMA of 4 resident pages each)")
    axes.set_ylabel("time of the ending (lower is better)")
    axes.set_xticks(REGIONS, [str(count) for count in REGIONS])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(seconds)
    axes.legend(title="median; band: all values")
    return Drawn(_times_sentence(times["early-close"], times["unregister"], common), figure)


def _by_regions(results: Results, ending: str, prefix: str) -> dict[int, Values]:
    found = {count: results.values(f"ending-{ending}", f"{prefix}/{count}") for count in REGIONS}
    return {count: values for count, values in found.items() if values is not None}


def _line(axes: Axes, times: Mapping[int, Values], colour: str, label: str, style: str) -> None:
    """A line of medians, and a band from the least value to the greatest."""
    regions = list(times)
    axes.plot(regions, [np.median(values) for values in times.values()], style, label=label, color=colour, markersize=5)
    low, high = [values.min() for values in times.values()], [values.max() for values in times.values()]
    axes.fill_between(regions, low, high, color=colour, alpha=0.12, linewidth=0)


def _times_sentence(early_close: Mapping[int, Values], unregister: Mapping[int, Values], common: Sequence[int]) -> str:
    early, late = np.median(early_close[common[-1]]), np.median(unregister[common[-1]])
    text = f"Letting go of {common[-1]} regions takes {seconds(early)} by an early close, {seconds(late)} by unregister"
    ratios = [np.median(unregister[many]) / np.median(early_close[many]) for many in common if many >= _MANY_REGIONS]
    if not ratios:
        return f"{text}."
    return f"{text}; from {_MANY_REGIONS} on, unregister takes {min(ratios):.1f} to {max(ratios):.1f} times as long."


_Tails = Mapping[tuple[str, str], Sequence[Values]]


def latency(results: Results) -> Drawn | None:
    """Quantiles of accesses around each ending, and before it."""
    tails = {worker: _tails(results, worker) for worker in WORKERS}
    if not all(tails.values()):
        return None
    figure, panels = pyplot.subplots(1, len(WORKERS), figsize=(12, 4.5), sharey=True, layout="constrained")
    for axes, worker in zip(panels, WORKERS, strict=True):
        _quantiles(axes, tails[worker])
        axes.set_title(_WORK[worker], fontsize=10)
    panels[0].set_ylabel("latency of one access (lower is better)")
    panels[0].yaxis.set_major_formatter(seconds)
    panels[0].legend(fontsize=9, loc="upper left", title="median of the processes; lines: all")
    return Drawn(_latency_sentence(tails), figure)


def _tails(results: Results, worker: str) -> _Tails:
    """The values of each quantile by (ending, window); empty unless all were measured."""
    found: dict[tuple[str, str], list[Values | None]] = {
        (ending, window): [results.values("tails", f"tails/{worker}/{ending}/{window}/{name}") for name in NAMES]
        for window in ("before", "around")
        for ending in ENDINGS
    }
    known: _Tails = {key: [values for values in tails if values is not None] for key, tails in found.items()}
    return known if all(len(tails) == len(NAMES) for tails in known.values()) else {}


def _quantiles(axes: Axes, tails: _Tails) -> None:
    """A point for each quantile, with a line from the least process to the greatest; hollow before the ending."""
    for number, ((ending, window), values) in enumerate(tails.items()):
        medians = [float(np.median(each)) for each in values]
        low = [median - each.min() for median, each in zip(medians, values, strict=True)]
        high = [each.max() - median for median, each in zip(medians, values, strict=True)]
        axes.errorbar(
            np.arange(len(NAMES)) + (number - 1.5) * 0.17,
            medians,
            [low, high],
            fmt="s" if window == "before" else "o",
            color=COLOURS[ending],
            markerfacecolor="white" if window == "before" else COLOURS[ending],
            label=f"{window} {'an early close' if ending == 'early-close' else 'unregister'}",
            linewidth=1,
        )
    axes.set(yscale="log")
    axes.set_xticks(range(len(NAMES)), NAMES)
    axes.grid(axis="y", alpha=0.3)


def _latency_sentence(tails: Mapping[Worker, _Tails]) -> str:
    def longest(worker: Worker, ending: str, window: str) -> str:
        return seconds(float(np.median(tails[worker][ending, window][-1])))

    stalls = (
        f"{longest(worker, 'early-close', 'around')} around an early close and "
        f"{longest(worker, 'unregister', 'around')} around unregister "
        f"({longest(worker, 'early-close', 'before')} and {longest(worker, 'unregister', 'before')} before them) "
        f"when {_WORK[worker]}"
        for worker in WORKERS
    )
    return f"The longest access within 5 ms of the ending takes {'; '.join(stalls)}."


def stall_throughput(results: Results) -> Drawn | None:
    """Accesses per millisecond through each ending."""
    timelines = {
        (worker, ending): results.arrays("tails", f"tails/{worker}/{ending}/timeline")
        for worker in WORKERS
        for ending in ENDINGS
    }
    if not all(timelines.values()):
        return None
    counts: dict[tuple[str, str], Values] = {key: np.concatenate(arrays) for key, arrays in timelines.items()}
    figure, panels = pyplot.subplots(len(WORKERS), 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axes, worker in zip(panels, WORKERS, strict=True):
        for ending in ENDINGS:
            _timeline(axes, counts[worker, ending], ending)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_title(_WORK[worker], fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("accesses per ms")
    panels[-1].set(xlabel="ms since the ending began", xlim=(-20, 40))
    panels[0].legend(loc="lower right", fontsize=9, title="median of the endings; band: quartiles")
    return Drawn(_throughput_sentence(counts), figure)


def _timeline(axes: Axes, counts: Values, ending: str) -> None:
    low, median, high = np.quantile(counts, [0.25, 0.5, 0.75], axis=0)
    axes.step(SHOWN, median, where="post", color=COLOURS[ending], label=ending)
    axes.fill_between(SHOWN, low, high, step="post", color=COLOURS[ending], alpha=0.2, linewidth=0)


def _throughput_sentence(counts: Mapping[tuple[str, str], Values]) -> str:
    shares = (
        f"{_worst_share(counts[worker, 'early-close']):.0%} with an early close and "
        f"{_worst_share(counts[worker, 'unregister']):.0%} with unregister when {_WORK[worker]}"
        for worker in WORKERS
    )
    return f"Of the throughput before it, the worst millisecond of the median ending leaves {'; '.join(shares)}."


def _worst_share(counts: Values) -> float:
    """The least of the 20 ms from the beginning of the ending, by medians, of what was usual before."""
    milliseconds = np.array(SHOWN)
    usual = np.median(counts[:, milliseconds < 0])
    within = np.median(counts[:, (milliseconds >= 0) & (milliseconds < 20)], axis=0)
    return float(within.min() / usual)
