"""Figures of serving: a fault, a fill, and the restore of a real image."""

from collections.abc import Mapping, Sequence

import numpy as np
from _axes import ENDINGS, FILLERS, PAGE, SETUPS
from _pairs import Ratio, Values
from _placement import PLACEMENTS
from _plotting import BLACK, BLUE, COLOURS, GREY, ORANGE, Drawn, reach, seconds
from _results import Results
from matplotlib import pyplot
from matplotlib.axes import Axes


def fault_ratios(results: Results) -> Drawn | None:
    """Manager to floor, by placement."""
    figure, panels = pyplot.subplots(1, len(SETUPS), figsize=(11, 4.5), sharey=True, layout="constrained")
    ratios: list[Ratio] = []
    for axes, setup in zip(panels, SETUPS, strict=True):
        for position, placement in enumerate(PLACEMENTS):
            name = f"fault/{setup}/{placement.name}/around-1/threads-1"
            ratio = results.ratio("fault", f"{name}/manager", f"{name}/floor")
            if ratio is not None:
                _ratio_bar(axes, position, ratio)
                ratios.append(ratio)
        axes.axhline(1.0, color=BLACK, linewidth=1)
        axes.axhline(1.1, color=ORANGE, linewidth=1, linestyle="--")
        axes.set_xticks(range(len(PLACEMENTS)), [placement.name for placement in PLACEMENTS])
        axes.set_title(setup)
    panels[0].set_ylabel("time of a fault: manager / floor\n(lower is better; dashed: 1.10)")
    return Drawn(_fault_sentence(ratios), figure) if ratios else None


def _ratio_bar(axes: Axes, position: int, ratio: Ratio) -> None:
    """A bar to the median of the paired ratios, a line over their quartiles, and both times inside."""
    low, middle, high = np.quantile(ratio.paired, [0.25, 0.5, 0.75])
    spread = [[middle - low], [high - middle]]
    axes.bar(position, middle, 0.65, yerr=spread, color=BLUE, ecolor=BLACK, capsize=4)
    text = f"{middle:.2f}\n\n{seconds(ratio.median)}\n/ {seconds(ratio.other_median)}"
    axes.text(position, 0.05, text, ha="center", va="bottom", color="white")


def _fault_sentence(ratios: Sequence[Ratio]) -> str:
    medians = [np.median(ratio.paired) for ratio in ratios]
    return (
        f"One fault takes the manager {min(medians):.2f} to {max(medians):.2f} times as long as the shortest "
        "hand-written loop at the same placement (bars: median of the paired rounds; lines: quartiles; inside: the "
        "two times)."
    )


def fill_bandwidth(results: Results) -> Drawn | None:
    """The filler beside bare UFFDIO_COPY loops and memcpy."""
    arms = ["memcpy", *(f"{who}-{fillers}" for fillers in FILLERS for who in ("floor", "manager"))]
    times = {(setup, arm): results.values("fill", f"fill/{setup}/{arm}") for setup in SETUPS for arm in arms}
    speeds = {key: PAGE / values / 1e9 for key, values in times.items() if values is not None}
    if len(speeds) < len(times):
        return None
    figure, panels = pyplot.subplots(1, len(SETUPS), figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, setup in zip(panels, SETUPS, strict=True):
        for position, arm in enumerate(arms):
            _speed_bar(axes, position, speeds[setup, arm], BLUE if arm.startswith("manager") else GREY)
        axes.set_xticks(range(len(arms)), [arm.replace("-", "\nx") for arm in arms])
        axes.set_title(setup)
    panels[0].set_ylabel("GB/s (higher is better; lines: all values)")
    return Drawn(_fill_sentence(speeds), figure)


def _speed_bar(axes: Axes, position: int, speeds: Values, colour: str) -> None:
    middle = float(np.median(speeds))
    axes.bar(position, middle, 0.65, yerr=reach(speeds), color=colour, ecolor=BLACK, capsize=4)
    axes.text(position, middle / 2, f"{middle:.1f}", ha="center", color="white", weight="bold")


def _fill_sentence(speeds: Mapping[tuple[str, str], Values]) -> str:
    def speed(arm: str) -> str:
        return f"{np.median(speeds['across', arm]):.1f}"

    return (
        f"One filler installs another process's memory at {speed('manager-1')} GB/s and two at {speed('manager-2')} "
        f"GB/s; one bare UFFDIO_COPY loop reaches {speed('floor-1')} GB/s and two {speed('floor-2')} GB/s, and memcpy "
        f"into resident memory {speed('memcpy')} GB/s."
    )


def restore_times(results: Results) -> Drawn | None:
    """Time to native speed and to the end of the work, by each way; and where nobody works meanwhile."""
    ways = [f"{ending}/fillers-{count}" for ending in (*ENDINGS, "keep-open") for count in FILLERS]
    native = {way: results.values("restore", f"restore/{way}/native") for way in [*ways, "read", "mmap"]}
    known = {way: values for way, values in native.items() if values is not None}
    if len(known) <= len(ways):
        return None
    figure, (axes, alone) = pyplot.subplots(
        2, figsize=(9, 7), layout="constrained", sharex=True, height_ratios=(len(native), 6)
    )
    for position, (way, values) in enumerate(known.items()):
        _time_bar(axes, position, values, COLOURS[way.split("/")[0]])
    works = [results.median("restore", f"restore/{way}/work") or np.nan for way in native]
    axes.plot(works, range(len(native)), "D", color=BLACK, label="every page touched and compared")
    axes.set_yticks(range(len(native)), [way.replace("/fillers-", ", fillers: ") for way in native])
    axes.set_title("while two threads of the target work")
    axes.legend(loc="lower right")
    alone_sentence = _restore_alone(results, alone)
    for panel in (axes, alone):
        panel.invert_yaxis()
        panel.xaxis.set_major_formatter(seconds)
    alone.set_xlabel("from the hand-off; bars: to native speed; lines: all values (lower is better)")
    return Drawn(_restore_sentence(known, ways) + alone_sentence, figure)


def _restore_alone(results: Results, axes: Axes) -> str:
    """Draw the times where nobody works meanwhile; returns what they say."""
    arms = ("fillers-1", "fillers-2", "read")
    native = {
        (place, arm): values
        for place in ("two-cpus", "one-cpu")
        for arm in arms
        if (values := results.values("restore", f"alone/{place}/{arm}/native")) is not None
    }
    for position, ((_, arm), values) in enumerate(native.items()):
        _time_bar(axes, position, values, COLOURS["read" if arm == "read" else "early-close"])
    axes.set_yticks(range(len(native)), [f"{place}, {arm.replace('-', ': ')}" for place, arm in native])
    axes.set_title("while nobody works there; early close")
    medians = {key: float(np.median(values)) for key, values in native.items()}
    best = {
        place: min(medians[place, arm] for arm in arms[:-1])
        for place in ("two-cpus", "one-cpu")
        if all((place, arm) in medians for arm in arms)
    }
    return "".join(
        f" Where nobody works meanwhile it takes {seconds(time)} on {place.replace('-', ' ')}, and the read "
        f"{seconds(medians[place, 'read'])}."
        for place, time in best.items()
    )


def _time_bar(axes: Axes, position: int, values: Values, colour: str) -> None:
    middle = float(np.median(values))
    axes.barh(position, middle, 0.65, xerr=reach(values), color=colour, ecolor=BLACK, capsize=3)
    axes.text(middle * 0.03, position, seconds(middle), va="center", color="white", weight="bold")


def _restore_sentence(native: Mapping[str, Values], ways: Sequence[str]) -> str:
    medians = {way: float(np.median(values)) for way, values in native.items()}
    soonest = min(ways, key=lambda way: medians[way])
    ending, fillers = soonest.split("/fillers-")
    return (
        f"The real image is back at native speed {seconds(medians['early-close/fillers-1'])} after the hand-off with "
        f"an early close and one filler, and soonest, {seconds(medians[soonest])}, with {ending} and {fillers} of "
        f"them; a plain read of it into fresh memory takes {seconds(medians['read'])}."
    )
