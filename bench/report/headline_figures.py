"""The figures of the answer, at most seven."""

from collections.abc import Iterator

import numpy as np

from ..arms import LEARNED, LOOP, filler, read_by
from .drawing import drawn_of
from .judge import compare, noise
from .plotting import BLACK, SPREAD, Drawn, counts_on, dot_panels, dots, figure, lines, look_of, point, times_on
from .results import CaseInfo, Results, Values
from .words import interval, seconds, times

_ENDINGS = ("early-close", "unregister", "keep-open")
_WORK = {
    "target": "reads resident managed pages",
    "fault": "faults on memory nobody manages",
    "mmap": "maps, touches and unmaps memory",
}
_QUANTILES = ("p50", "p99", "p99.9", "max")
_SHOWN_MS = range(-20, 35)


def draw(results: Results) -> Iterator[Drawn]:
    """Draw those whose questions were measured."""
    return drawn_of(results, [ending_time, latency, throughput, one_fault, fill, restore])


def ending_time(results: Results) -> Drawn | None:
    """The time of both endings against regions."""
    cases = {
        int(info.parameters["regions"]): info
        for info in results.cases_of("ending")
        if info.parameters["setup"] == "across"
    }
    if len(cases) < 2:
        return None
    regions = sorted(cases)
    arms = ("early-close", "unregister", "early-close, bare", "unregister, bare")
    drawn = figure(8, 5)
    axes = drawn.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="regions (a VMA of 4 pages each)", ylabel="time of the ending")
    lines(axes, {arm: {count: results.of("ending", cases[count].name, arm) for count in regions} for arm in arms})
    found = {count: compare(results, "ending", cases[count].name, "unregister", "early-close") for count in regions}
    for count, each in found.items():
        if each.ratio == each.ratio:
            text = f"{times(each.ratio)} times"
            axes.annotate(text, (count, each.median), (0, 12), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xlim(regions[0] / 2, regions[-1] * 2.5)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.5)
    counts_on(axes.xaxis, regions)
    times_on(axes.yaxis)
    axes.legend(loc="upper left")
    most = found[regions[-1]]
    title = (
        f"Letting go of {regions[-1]} regions takes {seconds(most.other_median)} by an early close and "
        f"{seconds(most.median)} by unregister"
    )
    note = f"{SPREAD} Above: unregister to early close, paired. Hollow: the loop of system calls alone."
    return Drawn("ending", title, note, drawn)


def latency(results: Results) -> Drawn | None:
    """Quantiles of accesses around an ending, and before it."""
    cases = _tails(results)
    if not cases:
        return None
    drawn = figure(8, 2.6 * len(cases))
    panels = drawn.subplots(len(cases), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, info in zip(panels, cases, strict=True):
        axes.set_yscale("log")
        for column, quantile in enumerate(_QUANTILES):
            for shift, ending in zip((-0.24, 0.0, 0.24), _ENDINGS, strict=True):
                around = results.of("tails", info.name, ending, f"{quantile} around")
                before = results.of("tails", info.name, ending, f"{quantile} before").median()
                point(axes, column + shift, around, ending, across=False, label=ending if column == 0 else "")
                axes.plot([column + shift - 0.1, column + shift + 0.1], [before] * 2, color=BLACK, linewidth=1)
        axes.set_title(f"a thread {_WORK[info.parameters['beside']]}", fontsize=10)
        axes.set_xticks(range(len(_QUANTILES)), _QUANTILES)
        axes.grid(axis="y", which="both", alpha=0.2)
        axes.set_ylabel("one access")
        times_on(axes.yaxis)
    panels[0].legend(loc="upper left", fontsize=9)
    worst = max(cases, key=lambda info: _held_up(results, info))
    longest = {ending: seconds(results.median("tails", worst.name, ending, "max around")) for ending in _ENDINGS}
    title = (
        f"An ending holds up most a thread that {_WORK[worst.parameters['beside']]}: its longest access takes "
        f"{longest['early-close']} around an early close, {longest['unregister']} around unregister, and "
        f"{longest['keep-open']} without an ending"
    )
    note = (
        f"{SPREAD} Quantiles of the accesses from 5 ms before an ending of {cases[0].parameters['regions']} regions to "
        f"5 ms after it; black dashes: in a window before it. Where: {cases[0].parameters['placement']}."
    )
    return Drawn("latency", title, note, drawn)


def _tails(results: Results) -> list[CaseInfo]:
    cases = [info for info in results.cases_of("tails") if info.name.startswith("beside ")]
    return [info for info in cases if all(results.of("tails", info.name, e, "max around").size for e in _ENDINGS)]


def _held_up(results: Results, info: CaseInfo) -> float:
    """By what factor the longest access is longer around an ending than without one."""
    without = results.median("tails", info.name, "keep-open", "max around")
    return max(results.median("tails", info.name, ending, "max around") for ending in _ENDINGS[:2]) / without


def throughput(results: Results) -> Drawn | None:
    """Accesses per millisecond through an ending."""
    cases = _tails(results)
    if not cases:
        return None
    drawn = figure(8, 2.4 * len(cases))
    panels = drawn.subplots(len(cases), 1, sharex=True, squeeze=False)[:, 0]
    worst = {}
    for axes, info in zip(panels, cases, strict=True):
        for ending in _ENDINGS:
            share = _shares(results, info, ending)
            low, middle, high = np.quantile(share, [0.25, 0.5, 0.75], axis=0)
            colour = look_of(ending).colour
            axes.step(_SHOWN_MS, middle, where="post", color=colour, label=ending)
            axes.fill_between(_SHOWN_MS, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
            worst[info.name, ending] = float(middle[-_SHOWN_MS.start :][:20].min())
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_title(f"a thread {_WORK[info.parameters['beside']]}", fontsize=10)
        axes.set(ylim=(0, None), ylabel="accesses per ms,\nto those before")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(alpha=0.2)
    panels[-1].set_xlabel("milliseconds since the ending began")
    panels[0].legend(loc="lower right", fontsize=9)
    slowest = min(cases, key=lambda info: min(worst[info.name, ending] for ending in _ENDINGS[:2]))
    title = (
        f"An ending slows most a thread that {_WORK[slowest.parameters['beside']]}: in the worst millisecond it has "
        f"{worst[slowest.name, 'early-close']:.0%} of its usual throughput with an early close, and "
        f"{worst[slowest.name, 'unregister']:.0%} with unregister (medians of each millisecond)"
    )
    return Drawn(
        "throughput", title, "Lines: the median of the endings; bands: the middle half. Higher is better.", drawn
    )


def _shares(results: Results, info: CaseInfo, ending: str) -> Values:
    """Accesses per millisecond of each ending, as a share of its own median before the ending."""
    counts = np.array(results.arrays["tails", info.name, ending, "timeline"], np.float64)
    before = -int(info.parameters["timeline_begins_ms"])
    usual = counts[:, :before].mean(axis=1, keepdims=True)
    begin = before + _SHOWN_MS.start
    shares: Values = counts[:, begin : begin + len(_SHOWN_MS)] / np.maximum(usual, 1.0)
    return shares


def one_fault(results: Results) -> Drawn | None:
    """One fault, by what serves it; and a page of a walk."""
    placed, inline = "one fault, another process", "one fault, this process, inline"
    arms = results.by_arm("fault", placed)
    walk = {arm: values for arm, values in arms.items() if arm == LEARNED}
    panels = {
        placed: {arm: values for arm, values in arms.items() if arm not in walk},
        "a page of a walk through another process's memory": walk,
        inline: results.by_arm("fault", inline),
    }
    panels = {title: arms for title, arms in panels.items() if arms}
    if placed not in panels:
        return None
    drawn = dot_panels(panels, "time that the thread waits for a page", log=True)
    gain = compare(results, "fault", placed, LOOP, "adopt")
    title = (
        f"A fault takes the loop that managers use {seconds(gain.median)}, and pyuffd {seconds(gain.other_median)} "
        "where it adopts the thread"
    )
    return Drawn("fault", title, SPREAD, drawn)


def fill(results: Results) -> Drawn | None:
    """How fast memory is installed in the background."""
    cases = [info for info in results.cases_of("fill") if info.parameters["setup"] == "across"]
    if not cases or not (arms := results.by_arm("fill", cases[0].name)):
        return None
    drawn = figure(8.5, 0.55 * len(arms) + 1.4)
    axes = drawn.add_subplot()
    dots(axes, arms, lambda _, middle: f"{seconds(middle)} a page, {4096 / middle / 1e9:.1f} GB/s")
    axes.set_xlim(0, None)
    axes.margins(x=0.15)
    times_on(axes.xaxis)
    axes.set_xlabel("time of a page of 4 KiB")
    one, two = (results.median("fill", cases[0].name, filler(count)) for count in (1, 2))
    if not (one > 0 and two > 0):
        return None
    title = f"One filler installs {4096 / one / 1e9:.1f} GB/s into another process, two {4096 / two / 1e9:.1f} GB/s"
    return Drawn("fill", title, SPREAD, drawn)


def restore(results: Results) -> Drawn | None:
    """The real image, restored in each way."""
    panels = {}
    for info in results.cases_of("restore"):
        working = info.name.startswith("at work")
        what = "until all is touched and compared" if working else "until all is resident and let go"
        arms = results.by_arm("restore", info.name, "work" if working else "native")
        if info.headline and arms:
            panels[f"{info.name}: {what}"] = arms
    found = compare(results, "restore", "at work, 2 fillers", "early-close", read_by(2), "work")
    if not panels or not found.ratio > 0:
        return None
    relation = found.relation(noise(results, "restore", "at work, 2 fillers", "work"))
    title = (
        "A real program whose memory comes back while it works has touched and compared all of it after "
        f"{times(found.ratio)} times as long as where it waits for a read() by two threads ({interval(found)})"
        f"{'' if relation == 'differs' else f': {relation}'}"
    )
    drawn = dot_panels(panels, "time from the hand-off", log=False)
    return Drawn("restore", title, f"{SPREAD} {_program(results)}", drawn)


def _program(results: Results) -> str:
    if results.image is None:
        return ""
    of = results.image
    return (
        f"The program: Python {of['python']} with numpy {of['numpy']}, matplotlib; {of['total'] / (1 << 20):.0f} MiB "
        f"in {len(of['areas'])} VMAs."
    )
