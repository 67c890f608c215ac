"""The answer in words, computed: what was measured, with its uncertainty, whichever way it turned out."""

from collections.abc import Iterator

from ..arms import BARE_SIGBUS, FLOOR, LOOP, filler, read_by
from .judge import Comparison, compare, noise
from .results import Results
from .words import interval, seconds, sentence, times

# Seconds of CPU time a second that strangers took, from which on a run is called busy.
_BUSY_CPUS = 0.2
_BUSY_STEAL = 0.02


def answers(results: Results) -> Iterator[str]:
    """A sentence for each comparison that people ask for, where it was measured."""
    for info in sorted(results.cases_of("ending"), key=lambda info: int(info.parameters["regions"])):
        if info.parameters["setup"] == "across":
            yield from _sentence(results, "ending", info.name, "unregister", "early-close")
    for info in results.cases_of("tails"):
        for metric, what in (("max around", "longest access"), ("pace around", "pace")):
            case = f"{info.name}, {what}"
            yield from _sentence(results, "tails", info.name, "unregister", "early-close", metric, case)
    placed = "one fault, another process"
    for arm, other in ((LOOP, "adopt"), (LOOP, "auto"), ("adopt", FLOOR)):
        yield from _sentence(results, "fault", placed, arm, other)
    yield from _sentence(results, "fault", "one fault, this process, inline", "inline", BARE_SIGBUS)
    yield from _sentence(results, "fill", "fill, across", filler(1), filler(2))
    for arm in ("unregister", "keep-open", read_by(2)):
        yield from _sentence(results, "restore", "at work, 2 fillers", arm, "early-close", "native")
    for arm in ("mmap", "mmap, MAP_POPULATE", read_by(2)):
        yield from _sentence(results, "restore", "at work, 2 fillers", arm, "early-close", "work")


def _sentence(
    results: Results, question: str, case: str, arm: str, other: str, metric: str = "time", words: str = ""
) -> Iterator[str]:
    found = compare(results, question, case, arm, other, metric)
    if found.ratio == found.ratio:
        yield sentence(found, noise(results, question, metric), case=words or case)


def headline(results: Results) -> str:
    """The answer in one sentence: the endings of thousands of regions; without them, the first comparison there is."""
    for regions in ("4096 regions", "16384 regions", "1024 regions", "64 regions", "1 region"):
        found = compare(results, "ending", regions, "unregister", "early-close")
        if found.ratio == found.ratio:
            return _headline(found, regions, noise(results, "ending"))
    for info in results.cases.values():
        for arm, other in info.pairs:
            found = compare(results, info.question, info.name, arm, other)
            if found.ratio == found.ratio:
                return sentence(found, noise(results, info.question), case=f"{info.question}, {info.name}")
    return "Nothing was measured that can be compared."


def _headline(found: Comparison, regions: str, aa: float) -> str:
    text = (
        f"{regions}: early close {seconds(found.other_median)}, unregister {seconds(found.median)}: "
        f"{times(found.ratio)} times, {interval(found)}"
    )
    return text if found.differs(aa) else f"{text}: no difference"


def losses(results: Results) -> str:
    """Where an early close loses against unregister, and where the data does not tell."""
    found = []
    for info in results.cases.values():
        if ("unregister", "early-close") not in info.pairs:
            continue
        rows = results.values
        chosen = rows[(rows.question == info.question) & (rows.case == info.name) & (rows.arm == "early-close")]
        for metric in chosen.metric.unique():
            if not metric.endswith("before"):
                each = compare(results, info.question, info.name, "unregister", "early-close", metric)
                found.append((each, each.differs(noise(results, info.question, metric))))
    wins = [each for each, differs in found if differs and each.ratio > 1]
    lost = [each for each, differs in found if differs and each.ratio < 1]
    text = f"Of {len(found)} comparisons of an early close with unregister, the early close wins {len(wins)}"
    text += f" and loses {len(lost)}; {len(found) - len(wins) - len(lost)} show no difference."
    for each in lost:
        text += (
            f" It loses: {each.question}, {each.case}, {each.metric}: {seconds(each.other_median)} against "
            f"{seconds(each.median)}."
        )
    return text


def quiet(results: Results) -> str:
    """Whether the machine was quiet, and by how much an arm differed from itself."""
    controls = {question: noise(results, question) for question in {info.question for info in results.cases.values()}}
    told = {question: found for question, found in controls.items() if found > 1.0}
    text = f"{_busy(results)} "
    if told:
        worst = max(told, key=lambda question: told[question])
        text += (
            "The same arm, measured twice in each round, differed from itself by "
            f"{', '.join(f'{found - 1:.1%} ({question})' for question, found in sorted(told.items()))}: "
            f"a smaller difference is not called one. The largest is that of {worst}."
        )
    return text


def is_busy(results: Results) -> bool:
    """Whether others used the CPUs meanwhile."""
    if results.business.empty:
        return False
    return bool(results.business.others.mean() > _BUSY_CPUS or results.business.steal.mean() > _BUSY_STEAL)


def _busy(results: Results) -> str:
    if results.business.empty:
        return "How busy the machine was is not known."
    of = results.business
    state = "BUSY: absolute times and tails are not those of a quiet machine" if is_busy(results) else "quiet"
    pressure = "" if of.pressure.isna().all() else f", some task waited for a CPU {of.pressure.mean():.0%} of the time"
    mhz = "" if of.mhz.isna().all() else f", CPUs ran at {of.mhz.min():.0f} to {of.mhz.max():.0f} MHz"
    return (
        f"The machine was {state}: others took {of.others.mean():.2f} CPUs on average (at most {of.others.max():.2f}), "
        f"the host {of.steal.mean():.1%}{pressure}{mhz}."
    )
