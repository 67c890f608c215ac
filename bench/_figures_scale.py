"""Figures of how costs grow: with threads and targets, by placement, and beside what else there is."""

from collections.abc import Mapping, Sequence

import numpy as np
from _axes import MANY_THREADS, TARGETS
from _pairs import Values
from _plotting import BLACK, BLUE, GREY, ORANGE, Drawn, reach, seconds
from _results import Results
from matplotlib import pyplot
from matplotlib.axes import Axes

_MANAGERS = {"naive": ORANGE, "auto": BLUE, "adopt": BLACK}
_SHARING = {"copy": ORANGE, "arriving": GREY, "manager": BLUE, "mmap": BLACK}
_LABELS = {
    "copy": "a private copy each",
    "arriving": "SharedImage that is filled meanwhile",
    "manager": "complete SharedImage",
    "mmap": "plain mappings of it",
}


def placed_faults(results: Results) -> Drawn | None:
    """One fault of a free thread, by what is done about it."""
    prefix = "placed/across/"
    names = [name.removeprefix(prefix) for name in results.names("fault") if name.startswith(prefix)]
    times = {name: results.values("fault", f"{prefix}{name}") for name in names}
    known = {name: values for name, values in times.items() if values is not None}
    if not {"naive", "adopt", "auto", "paired-floor"} <= set(known):
        return None
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    _bars(axes, known, {"paired-floor": GREY, "naive": ORANGE})
    axes.set_xlabel("time of a page; lines: all values (lower is better)")
    naive, adopt, floor = (float(np.median(known[name])) for name in ("naive", "adopt", "paired-floor"))
    return Drawn(
        f"A fault of another process takes the loop that managers use {seconds(naive)}, and {seconds(adopt)} where its "
        f"thread is adopted; the bare loop with both held on one CPU takes {seconds(floor)}.",
        figure,
    )


def threads_waited_and_burnt(results: Results) -> Drawn | None:
    """Both costs of a page, against threads."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axes, cost in zip(panels, ("waited", "burnt"), strict=True):
        for manager, colour in _MANAGERS.items():
            medians = [results.median("scale", f"scale/threads-{count}/{manager}/{cost}") for count in MANY_THREADS]
            if None in medians:
                return None
            axes.plot(MANY_THREADS, medians, "-o", label=manager, color=colour, markersize=5)
        axes.set(xscale="log", yscale="log", xlabel="threads that fault", title=f"{cost} per page")
        axes.set_xticks(MANY_THREADS, [str(count) for count in MANY_THREADS])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(seconds)
    panels[0].set_ylabel("time of a page (medians; lower is better)")
    panels[1].legend()
    return Drawn(
        "What threads wait for a page, and the CPU time that manager and target burn for it together: adopting saves "
        "both, as nobody is woken on another CPU.",
        figure,
    )


def shared_restores(results: Results) -> Drawn | None:
    """A page of each of many targets, by how they get it."""
    found = {way: [results.median("share", f"share/{count}/{way}") for count in TARGETS] for way in _SHARING}
    times = {way: [median for median in medians if median is not None] for way, medians in found.items()}
    if any(len(medians) < len(TARGETS) for medians in times.values()):
        return None
    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for way, colour in _SHARING.items():
        axes.plot(TARGETS, times[way], "-o", label=_LABELS[way], color=colour, markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="targets", ylabel="time of a page of each (lower is better)")
    axes.set_xticks(TARGETS, [str(count) for count in TARGETS])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(seconds)
    axes.legend(title="median")
    most = max(TARGETS)
    shared, copied = (results.median("share", f"share/{most}/{way}") or np.nan for way in ("manager", "copy"))
    return Drawn(
        f"Restoring one image into {most} targets takes {seconds(shared)} a page and target where they share it, and "
        f"{seconds(copied)} where each has a copy.",
        figure,
    )


def what_else_there_is(results: Results) -> Drawn | None:
    """A walk through the pages of a cached file, by each way."""
    prefix = "scale/instead/"
    names: Sequence[str] = [name for name in results.names("scale") if name.startswith(prefix)]
    times = {name.removeprefix(prefix): results.values("scale", name) for name in names}
    known = {name: values for name, values in times.items() if values is not None}
    if not known:
        return None
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    _bars(axes, known, {name: GREY for name in known if not name.startswith("pyuffd")})
    axes.set_xscale("log")
    axes.set_xlabel("time of a page; lines: all values (lower is better)")
    return Drawn(
        "A walk through the pages of a file in the page cache: where mmap can serve it, nothing is as fast; a manager "
        "is for bytes that it cannot.",
        figure,
    )


def _bars(axes: Axes, times: Mapping[str, Values], colours: Mapping[str, str]) -> None:
    for position, (name, values) in enumerate(times.items()):
        middle = float(np.median(values))
        colour = colours.get(name, BLUE)
        axes.barh(position, middle, 0.65, xerr=reach(values), color=colour, ecolor=BLACK, capsize=3)
        axes.text(middle, position, f" {seconds(middle)}", va="bottom")
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(seconds)
