"""The answer in words, computed: what was measured, with its uncertainty, whichever way it turned out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..arms import BARE_SIGBUS, FLOOR, LOOP, filler, read_by
from .judge import Comparison, Noise, compare, noise
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
    restored = "at work, 2 fillers"
    for arm in ("unregister", "keep-open", read_by(2)):
        words = "a real program at work, until its memory is resident and let go"
        yield from _sentence(results, "restore", restored, arm, "early-close", "native", words)
    for arm in ("mmap", "mmap, MAP_POPULATE", read_by(2)):
        words = "a real program at work, until it has touched and compared everything"
        yield from _sentence(results, "restore", restored, arm, "early-close", "work", words)


def _sentence(
    results: Results, question: str, case: str, arm: str, other: str, metric: str = "time", words: str = ""
) -> Iterator[str]:
    found = compare(results, question, case, arm, other, metric)
    if found.ratio == found.ratio:
        yield sentence(found, noise(results, question, case, metric), case=words or case)


def headline(results: Results) -> str:
    """The answer in one sentence: the endings of thousands of regions; without them, the first comparison there is."""
    for regions in ("4096 regions", "16384 regions", "1024 regions", "64 regions", "1 region"):
        found = compare(results, "ending", regions, "unregister", "early-close")
        if found.ratio == found.ratio:
            return _headline(found, regions, noise(results, "ending", regions))
    for info in results.cases.values():
        rows = results.values
        metrics = rows[(rows.question == info.question) & (rows.case == info.name)].metric.unique()
        for (arm, other), metric in itertools.product(info.pairs, metrics):
            found = compare(results, info.question, info.name, arm, other, metric)
            if found.ratio == found.ratio and info.unit == "second":
                case = f"{info.question}, {info.name}, {metric}"
                return sentence(found, noise(results, info.question, info.name, metric), case=case)
    return "Nothing was measured that can be compared."


def _headline(found: Comparison, regions: str, aa: Noise) -> str:
    text = (
        f"{regions}: early close {seconds(found.other_median)}, unregister {seconds(found.median)}: "
        f"{times(found.ratio)} times, {interval(found)}"
    )
    if found.left_out:
        text += f" ({found.left_out} rounds had no value of both)"
    relation = found.relation(aa)
    return text if relation == "differs" else f"{text}: {relation}"


@dataclass(frozen=True)
class Balance:
    """Where an early close wins and loses against unregister, a sentence each; empty where not both were measured."""

    summary: str = ""
    losses: Sequence[str] = ()
    wins: Sequence[str] = ()


def balance(results: Results) -> Balance:
    """Compare the two endings by everything that was measured of both."""
    found: dict[str, list[Comparison]] = {}
    for info in results.cases.values():
        if ("unregister", "early-close") not in info.pairs:
            continue
        rows = results.values
        chosen = rows[(rows.question == info.question) & (rows.case == info.name) & (rows.arm == "early-close")]
        for metric in chosen.metric.unique():
            if not metric.endswith("before"):
                each = compare(results, info.question, info.name, "unregister", "early-close", metric)
                relation = each.relation(noise(results, info.question, info.name, metric))
                word = ("wins" if each.ratio > 1 else "loses") if relation == "differs" else str(relation)
                found.setdefault(word, []).append(each)
    if not found:
        return Balance()
    counts = {
        word: len(found.get(word, [])) for word in ("wins", "loses", "no difference", "within noise", "undecided")
    }
    summary = (
        f"Of {sum(counts.values())} metrics of the two endings an early close wins {counts['wins']} and loses "
        f"{counts['loses']}; {counts['no difference']} show no difference, {counts['within noise']} one smaller "
        f"than what an arm may differ from itself, and {counts['undecided']} are undecided."
    )
    losses, wins = (
        [
            f"It {word}: {each.question}, {each.case}, {each.metric}: {seconds(each.other_median)} against "
            f"{seconds(each.median)}."
            for each in found.get(word, [])
        ]
        for word in ("loses", "wins")
    )
    return Balance(summary, losses, wins)


_SAME = ("kernel", "git_commit", "transparent_hugepage", "cpu_count", "uffd_features", "pyuffd_build_type")


def changes(results: Results) -> str:
    """What was not the same all the time, so that processes must not be compared; empty where all was."""
    told = [f"{key} ({', '.join(results.told(key))})" for key in _SAME if len(results.told(key)) > 1]
    return f"NOT COMPARABLE: during the run there was a change of {'; '.join(told)}." if told else ""


def quiet(results: Results) -> str:
    """Whether the machine was quiet, and by how much an arm differed from itself."""
    controls = {
        question: noise(results, question).ratio for question in {info.question for info in results.cases.values()}
    }
    told = {question: found for question, found in controls.items() if found > 1.0}
    text = _busy(results)
    if changes(results):
        text += f" {changes(results)}"
    if told:
        text += (
            " By the arm that is measured twice in each round, the times of an arm may differ from themselves by "
            f"{', '.join(f'{found - 1:.1%} ({question})' for question, found in sorted(told.items()))}: "
            "a smaller difference is not called one; other metrics have noise of their own."
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
    mhz = "" if of.mhz.isna().all() else f", CPUs ran at {of.mhz.mean():.0f} MHz"
    disturbed = int((of.others > _BUSY_CPUS).sum())
    cases = f"; {disturbed} of {len(of)} cases were disturbed" if disturbed else ""
    return (
        f"The machine was {state}: others took {of.others.mean():.2f} CPUs on average (at most {of.others.max():.2f}), "
        f"the host took {of.steal.mean():.1%}{pressure}{mhz}{cases}."
    )
