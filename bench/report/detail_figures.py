"""The figures of what `--full` measures besides: one of each question, on a page of its own."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from ..arms import COPIES, IMAGE, LOOP, NATIVE, POOL, UNPRIVILEGED, WAKE_UP, bare, by_continue
from .drawing import drawn_of
from .judge import compare
from .plotting import BLACK, SPREAD, Drawn, counts_on, dot_panels, figure, lines, point, times_on
from .restore_figures import criu
from .results import CaseInfo, Results
from .words import seconds, times

_ENDINGS = ("early-close", "unregister")
_MODES = {"missing": "missing", "wp": "missing+wp", "minor": "minor"}


def draw(results: Results) -> Iterator[Drawn]:
    """Draw those whose questions were measured."""
    return drawn_of(
        results,
        [default, placements, threads, modes, meetings, stalls, scale, share, instead, cold, targets, fairness, criu],
    )


_Lines = dict[str, dict[float, "pd.Series[float]"]]


def _against(
    results: Results,
    question: str,
    axis: str,
    arms: Sequence[str],
    metric: str = "time",
    choose: Callable[[CaseInfo], bool] = lambda _: True,
) -> _Lines:
    """The values of each arm by a parameter of the chosen cases; arms without any are left out."""
    found: _Lines = {}
    chosen = [info for info in results.cases_of(question) if axis in info.parameters and choose(info)]
    for info in sorted(chosen, key=lambda info: float(info.parameters[axis])):
        for arm in arms:
            values = results.of(question, info.name, arm, metric)
            if values.notna().any():
                found.setdefault(arm, {})[float(info.parameters[axis])] = values
    return found


def _drawn_against(axes: Axes, found: _Lines, label: str, *, log: bool = True) -> None:
    counts = sorted({count for values in found.values() for count in values})
    axes.set(xlabel=label)
    if log:
        axes.set(xscale="log", yscale="log")
    else:
        axes.set_ylim(0, None)
    lines(axes, found)
    counts_on(axes.xaxis, counts)
    times_on(axes.yaxis)
    axes.legend(fontsize=8)


def _single(
    name: str, found: _Lines, label: str, title: str, note: str = SPREAD, ylabel: str = "time of a page"
) -> Drawn | None:
    if not found:
        return None
    drawn = figure()
    axes = drawn.add_subplot()
    _drawn_against(axes, found, label)
    axes.set_ylabel(ylabel)
    return Drawn(name, title, note, drawn)


def default(results: Results) -> Drawn | None:
    """What a fault costs by the default and by other ways, against what a wake-up costs."""
    found: _Lines = {}
    cases = [info for info in results.cases_of("default") if info.parameters.get("setup") == "across"]
    for info in sorted(cases, key=lambda info: results.median("default", info.name, WAKE_UP)):
        wake_up = results.median("default", info.name, WAKE_UP)
        for arm in (POOL, LOOP, UNPRIVILEGED, "auto", "adopt"):
            values = results.of("default", info.name, arm)
            if wake_up == wake_up and values.notna().any():
                found.setdefault(arm, {})[wake_up] = values
    if "auto" not in found:
        return None
    drawn = figure()
    axes = drawn.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="a wake-up of an idle CPU", ylabel="time of a fault")
    lines(axes, found)
    times_on(axes.xaxis)
    times_on(axes.yaxis)
    axes.legend(fontsize=8)
    slowest = max(found["auto"])
    told = [f"{arm} takes {seconds(float(found[arm][slowest].median()))}" for arm in (LOOP, "auto") if arm in found]
    title = f"Where a wake-up takes {seconds(slowest)}, {' and '.join(told)}"
    return Drawn("default", title, f"{SPREAD} Wake-ups slower than this host's are emulated.", drawn)


def placements(results: Results) -> Drawn | None:
    """The manager's fault to the floor's, by the CPUs that both are held to."""
    cases = [
        info
        for info in results.cases_of("fault")
        if ("manager", "floor") in info.pairs and info.parameters["fault_around"] == info.parameters["threads"] == 1
    ]
    found = [compare(results, "fault", info.name, "manager", "floor") for info in cases]
    found = [each for each in found if each.ratio == each.ratio]
    if not found:
        return None
    drawn = figure(8, 0.55 * len(found) + 1.4)
    axes = drawn.add_subplot()
    for row, each in enumerate(found):
        low, high = (each.ratio, each.ratio) if each.low != each.low else (each.low, each.high)
        axes.plot([low, high], [row, row], color=BLACK, linewidth=1.5)
        axes.plot(each.ratio, row, "o", color=BLACK)
        text = f"{times(each.ratio)}: {seconds(each.median)} to {seconds(each.other_median)}"
        axes.annotate(text, (each.ratio, row), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.axvline(1.0, color=BLACK, linewidth=0.8)
    axes.set_yticks(range(len(found)), [each.case for each in found])
    axes.set_ylim(len(found) - 0.5, -0.8)
    axes.set_xlim(0, 1.25 * max(1.0, *(each.ratio for each in found)))
    axes.set_xlabel("time of a fault: manager to the shortest loop at the same CPUs")
    least, most = min(each.ratio for each in found), max(each.ratio for each in found)
    title = f"One fault takes the manager {times(least)} to {times(most)} times as long as the shortest loop"
    return Drawn("placements", title, "Lines: intervals of 95 %. Lower is better.", drawn)


def threads(results: Results) -> Drawn | None:
    """What threads wait for a page, and the CPU time it takes."""
    arms = (LOOP, "auto", "adopt")
    panels = {metric: _against(results, "threads", "threads", arms, metric) for metric in ("waited", "burnt")}
    if not all(panels.values()):
        return None
    drawn = figure(11, 4.5)
    for axes, (metric, found) in zip(drawn.subplots(1, 2, sharey=True), panels.items(), strict=True):
        _drawn_against(axes, found, "threads that fault")
        axes.set_title({"waited": "time that a thread waits", "burnt": "CPU time of manager and target"}[metric])
    drawn.axes[0].set_ylabel("time of a page")
    cases = results.cases_of("threads")
    first, last = cases[0], cases[-1]
    title = f"Adopting takes {_share(results, first, 'burnt')} the CPU time of the loop that managers use with "
    title += f"{first.name}, and {_share(results, last, 'burnt')} with {last.name}"
    return Drawn("threads", title, SPREAD, drawn)


def _share(results: Results, info: CaseInfo, metric: str) -> str:
    found = compare(results, info.question, info.name, "adopt", LOOP, metric)
    return f"{times(found.ratio)} times"


def modes(results: Results) -> Drawn | None:
    """An early close of one region against its resident pages, by mode."""
    found: _Lines = {}
    for mode, name in _MODES.items():
        of_mode = _against(results, "modes", "pages", ["early-close"], choose=partial(_one_region, mode))
        if of_mode:
            found[name] = of_mode["early-close"]
    if not found:
        return None
    most = {name: list(values.items())[-1] for name, values in found.items()}
    told = "; ".join(f"{name} {seconds(float(values.median()))}" for name, (_, values) in most.items())
    pages = int(next(iter(most.values()))[0])
    title = f"An early close of one region of {pages} resident pages: {told}"
    return _single("modes", found, "resident pages of the one region", title, ylabel="time of an early close")


def _one_region(mode: str, info: CaseInfo) -> bool:
    return bool(info.parameters["mode"] == mode and info.parameters["regions"] == 1)


def meetings(results: Results) -> Drawn | None:
    """The bare loops against unrelated VMAs and waiting threads."""
    arms = [bare(ending) for ending in _ENDINGS]
    vmas = _against(
        results, "meetings", "unrelated_vmas", arms, choose=lambda info: info.parameters["mode"] == "missing"
    )
    waiting = _against(results, "meetings", "waiting", arms)
    if not vmas or not waiting:
        return None
    drawn = figure(11, 4.5)
    left, right = drawn.subplots(1, 2)
    for axes, found, label in (
        (left, vmas, "unrelated VMAs"),
        (right, waiting, "threads that wait for a missing page"),
    ):
        for arm, values in found.items():
            ending = arm.removesuffix(", bare")
            for number, (count, each) in enumerate(values.items()):
                point(axes, count, each, ending, across=False, label=ending if number == 0 else "")
        axes.set(xlabel=label)
        axes.grid(alpha=0.2)
    left.set(xscale="log", yscale="log")
    counts_on(left.xaxis, sorted({count for values in vmas.values() for count in values}))
    right.set_ylim(0, None)
    times_on(left.yaxis)
    times_on(right.yaxis)
    left.set_ylabel("time of the bare loop")
    left.legend()
    most = max(next(iter(vmas.values())))
    told = " and ".join(
        f"{seconds(float(values[most].median()))} by {arm.removesuffix(', bare')}" for arm, values in vmas.items()
    )
    return Drawn("meetings", f"With {most:.0f} unrelated VMAs an ending takes {told}", SPREAD, drawn)


def stalls(results: Results) -> Drawn | None:
    """The longest access of a thread of the target around an ending."""
    cases = [info for info in results.cases_of("meetings") if "beside" in info.parameters]
    if not cases:
        return None
    drawn = figure(9, 0.6 * len(cases) + 1.6)
    axes = drawn.add_subplot()
    axes.set_xscale("log")
    for row, info in enumerate(cases):
        for shift, ending in zip((-0.22, 0.0, 0.22), (*_ENDINGS, "keep-open"), strict=True):
            values = results.of("meetings", info.name, ending, "stall")
            point(axes, row + shift, values, ending, across=True, label=ending if row == 0 else "")
    axes.set_yticks(range(len(cases)), [info.name for info in cases])
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", alpha=0.2)
    times_on(axes.xaxis)
    axes.set_xlabel("longest access within 5 ms of the ending")
    drawn.legend(loc="outside upper center", ncols=3)
    worst = cases[-1]
    told = ", ".join(
        f"{seconds(results.median('meetings', worst.name, ending, 'stall'))} ({ending})"
        for ending in (*_ENDINGS, "keep-open")
    )
    return Drawn("stalls", f"The longest access of a thread, {worst.name}: {told}", SPREAD, drawn)


def scale(results: Results) -> Drawn | None:
    """A page against the size of the memory, and against regions."""
    found: dict[str, _Lines] = {}
    for axis, choose in (("bytes", _one_size(False)), ("regions", _one_size(True))):
        panel: _Lines = {}
        for metric in ("fault", "fill"):
            of_metric = _against(results, "scale", axis, ["manager"], metric, choose)
            if of_metric:
                panel[f"manager, {metric}"] = of_metric["manager"]
        panel |= _against(results, "scale", axis, [NATIVE], "fill", choose)
        found[axis] = panel
    if not all(found.values()):
        return None
    drawn = figure(11, 4.5)
    for axes, (axis, panel) in zip(drawn.subplots(1, 2, sharey=True), found.items(), strict=True):
        if axis == "bytes":
            panel = {arm: {size / (1 << 20): each for size, each in of.items()} for arm, of in panel.items()}
        _drawn_against(axes, panel, "MiB of memory" if axis == "bytes" else "regions of 64 MiB")
    drawn.axes[0].set_ylabel("time of a page")
    faults = [float(each.median()) for each in found["bytes"]["manager, fault"].values()]
    sizes = [size / (1 << 20) for size in found["bytes"]["manager, fault"]]
    title = f"One fault takes {seconds(min(faults))} to {seconds(max(faults))} in {min(sizes):g} to {max(sizes):g} MiB"
    return Drawn("scale", title, SPREAD, drawn)


def _one_size(of_regions: bool) -> Callable[[CaseInfo], bool]:
    return lambda info: ("regions" in info.name) == of_regions or info.name == "64 MiB in 1 region"


def share(results: Results) -> Drawn | None:
    """A page of each of many targets, by how they get it."""
    arms = (COPIES, "SharedImage, arriving", IMAGE, by_continue(512), "plain mappings")
    found = _against(results, "share", "targets", arms)
    if not found:
        return None
    info = [info for info in results.cases_of("share") if info.unit == "second"][-1]
    gain = compare(results, "share", info.name, COPIES, IMAGE)
    title = f"One image into {info.name}: a copy each takes {times(gain.ratio)} times as long as a SharedImage"
    return _single("share", found, "targets", title, ylabel="time of a page of each")


def instead(results: Results) -> Drawn | None:
    """A walk through a cached file, by each way that there is."""
    return _all_arms(results, "instead", "A walk through a file in the page cache")


def cold(results: Results) -> Drawn | None:
    """A file that is not in the page cache, by each way."""
    return _all_arms(results, "cold", "A file that is not in the page cache")


def _all_arms(results: Results, question: str, what: str) -> Drawn | None:
    panels = {info.name: results.by_arm(question, info.name) for info in results.cases_of(question)}
    panels = {case: arms for case, arms in panels.items() if arms}
    if not panels:
        return None
    told = []
    for case, arms in panels.items():
        fastest = list(arms)[-1]
        told.append(f"{fastest} is fastest, {seconds(float(arms[fastest].median()))} a page ({case})")
    return Drawn(question, f"{what}: {'; '.join(told)}", SPREAD, dot_panels(panels, "time of a page", log=True))


def targets(results: Results) -> Drawn | None:
    """A fault against the number of targets of one handler."""
    found = _against(
        results,
        "targets",
        "targets",
        ("manager", "epoll loop"),
        choose=lambda info: info.parameters["cpus"] == "same-cpu" and info.parameters["threads"] == 1,
    )
    if "manager" not in found:
        return None
    first, *_, last = found["manager"].items()
    title = (
        f"A fault takes {seconds(float(first[1].median()))} with {first[0]:.0f} target of one handler, and "
        f"{seconds(float(last[1].median()))} with {last[0]:.0f}"
    )
    return _single("targets", found, "targets of one handler", title)


def fairness(results: Results) -> Drawn | None:
    """A fault beside a target of many threads."""
    found = _against(results, "fairness", "threads", ("one handler", "a handler each"), "p99")
    if "one handler" not in found:
        return None
    most, values = list(found["one handler"].items())[-1]
    title = f"Beside {most:.0f} threads of a target of the same handler, 99 of 100 faults take at most "
    title += seconds(float(values.median()))
    return _single("fairness", found, "threads of the other target", title, ylabel="p99 of a fault")
