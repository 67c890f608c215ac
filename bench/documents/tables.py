"""Tables that can be quoted, as Markdown."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd
from scipy import stats

from ..arms import LOOP, POOL, UNPRIVILEGED, WAKE_UP
from ..kernels._report import tables as tables_of
from ..report.cost_model import PARTS, cost_model
from ..report.goals import goals
from ..report.judge import Comparison, compare
from ..report.words import seconds, times
from .figures import amount, record_of
from .sources import Sources

_REGIONS = (1, 64, 1024, 4096, 16384)
_STALLS = {
    "target": "reads resident managed pages",
    "fault": "faults on other memory",
    "mmap": "maps, touches and unmaps other memory",
    "populate": "populates other memory, 4 MiB at a time",
}
_RELEASES = {"unregister": "UNREGISTER", "unregister-and-wake": "UNREGISTER and WAKE", "close": "close"}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _endings(sources: Sources) -> str:
    rows = []
    for regions in _REGIONS:
        case = f"{regions} region{'s' * (regions != 1)}"
        found = compare(sources.results, "ending", case, "unregister", "early-close")
        rows.append((f"{regions:,}", seconds(found.other_median), seconds(found.median), *_told(found)))
    return markdown(("regions", "early close", "unregister", "times", "95 %"), rows)


def _told(found: Comparison) -> tuple[str, str]:
    return times(found.ratio), f"{times(found.low)} to {times(found.high)}"


def _stalls(sources: Sources) -> str:
    rows = []
    for worker, what in _STALLS.items():
        case = f"beside {worker}, 4096 regions"
        of = [
            sources.results.median("meetings", case, arm, metric)
            for arm, metric in (
                ("early-close", "stall"),
                ("unregister", "stall"),
                ("keep-open", "stall"),
            )
        ]
        rows.append((what, *(amount(value, "second") for value in of)))
    return markdown(("a thread of the target that", "early close", "unregister", "no ending"), rows)


def _costs(sources: Sources) -> str:
    rows = []
    for ending in ("early-close", "unregister"):
        model = cost_model(sources.results, ending)
        if model is None:
            raise ValueError("it cannot be fitted")
        fitted = zip(model.constants, model.errors, strict=True)
        parts = (f"{seconds(value)} ± {seconds(error)}" for value, error in fitted)
        rows.append((ending, *parts, f"{model.misfit:.0%}"))
    return markdown(("ending", *PARTS, "largest misfit"), rows)


def _missed(sources: Sources) -> str:
    """The goals that were not reached, or that the data leaves undecided."""
    rows = []
    for goal in goals():
        found = goal.outcome(sources.of(goal.question))
        if found.verdict != "reached":
            rows.append((goal.what, found.measured, found.interval, goal.bound, found.verdict))
    return markdown(("goal", "measured", "95 %", "must be", "verdict"), rows)


def _serving(sources: Sources) -> str:
    """One page of 4 KiB, by each way to serve it, beside the loop that does the same by hand."""
    placed, inline = "one fault, another process", "one fault, this process, inline"
    ways = (
        (
            "the loop that managers use (poll, read, COPY)",
            "fault",
            placed,
            "poll loop, one page a fault",
            "floor on one CPU",
        ),
        ('`placement="auto"`', "fault", placed, "auto", "floor on one CPU"),
        ('`placement="adopt"`', "fault", placed, "adopt", "floor on one CPU"),
        ("`inline=True`", "fault", inline, "inline", "COPY in a bare SIGBUS handler"),
        ("a walk, with fault-around that learns", "fault", "bulk, across", "learned", "bulk COPY"),
        ("filled, by one filler", "fill", "fill, across", "fill, 1 filler", "bulk COPY, 1 thread"),
        ("filled, by two fillers", "fill", "fill, across", "fill, 2 fillers", "bulk COPY, 2 threads"),
        ("of a complete `SharedImage`", "share", "1 target", "SharedImage", "CONTINUE of 512"),
    )
    rows = []
    for what, question, case, arm, other in ways:
        found = compare(sources.results, question, case, arm, other)
        rows.append((what, seconds(found.median), other, *_told(found)))
    return markdown(("a page", "takes", "beside", "times", "95 %"), rows)


def _sizes(sources: Sources) -> str:
    """Against memory, and against regions."""
    rows = []
    of = ("manager", "fault"), ("manager", "fill"), ("first touch, unmanaged", "fill")
    for info in sources.results.cases_of("scale"):
        if "bytes" in info.parameters:
            values = (sources.results.median("scale", info.name, *each) for each in of)
            rows.append((info.name, *(amount(value, "second") for value in values)))
    return markdown(("memory", "a fault", "a page of a fill", "a first touch, unmanaged"), rows)


def _threads(sources: Sources) -> str:
    """What a thread waits for a page."""
    arms = ("poll loop, one page a fault", "auto", "adopt")
    rows = []
    for threads in (1, 2, 4, 8, 16):
        case = f"{threads} thread{'s' * (threads != 1)}"
        values = (sources.results.median("threads", case, arm, "waited") for arm in arms)
        rows.append((str(threads), *(amount(value, "second") for value in values)))
    return markdown(("threads", *arms), rows)


def _default(sources: Sources) -> str:
    """A fault by what a wake-up costs."""
    arms = (LOOP, POOL, "adopt", "auto", UNPRIVILEGED)
    results = sources.results
    rows = {}
    for info in results.cases_of("default"):
        if info.parameters.get("setup") != "across" or "wake_up_us" not in info.parameters:
            continue
        wake_up = results.median("default", info.name, WAKE_UP)
        host = " (this host)" * (info.parameters["wake_up_us"] == "of this host")
        values = (seconds(results.median("default", info.name, arm)) for arm in arms)
        rows[wake_up] = (seconds(wake_up) + host, *values)
    header = ("a wake-up", LOOP, POOL, "`adopt`", "`auto`", "`auto`, unprivileged user")
    return markdown(header, (rows[wake_up] for wake_up in sorted(rows)))


def _races(sources: Sources) -> str:
    counts = ["closes", "raced", "accesses", "sigbus", "lost", "wrong"]
    found = pd.DataFrame(sources.race["races"]).groupby("memory")[counts].sum()
    found.loc["all"] = found.sum()
    rows = [(memory, *(f"{row[count]:,.0f}" for count in counts)) for memory, row in found.iterrows()]
    header = ("memory", "closes", "of them found threads at work", "accesses", "SIGBUS", "lost threads", "wrong pages")
    return markdown(header, rows)


def _lost_wakes(sources: Sources) -> str:
    rows = []
    for found in sources.race["lost_wakes"]:
        lost, rounds = found["lost"], found["rounds"]
        low, high = stats.binomtest(lost, rounds).proportion_ci(method="wilson")
        rate = f"{lost / rounds:.3g} ({low:.2g} to {high:.2g})"
        release = _RELEASES[found["release"]]
        rows.append((release, str(found["threads"]), f"{rounds:,}", f"{lost:,}", rate))
    return markdown(("release of the range", "readers", "rounds", "that left a thread asleep", "per round"), rows)


def _sleeper(sources: Sources) -> str:
    """The stack of a thread that UNREGISTER has left asleep, and the fdinfo of its userfaultfd, as a block of code."""
    record = record_of(sources, "host", "left-missing-wp")
    lines = [line for text in (record["stack"], record["fdinfo"]) for line in text.split(";")]
    return "\n".join(("```", *lines, "```", ""))


def _of_kernels(part: str) -> Callable[[Sources], str]:
    return lambda sources: tables_of(list(sources.kernels.values()))[part]


KINDS: dict[str, Callable[[Sources], str]] = {
    "endings": _endings,
    "stalls": _stalls,
    "costs": _costs,
    "goals-missed": _missed,
    "serving": _serving,
    "sizes": _sizes,
    "threads": _threads,
    "default": _default,
    "races": _races,
    "lost-wakes-counted": _lost_wakes,
    "sleeper": _sleeper,
    "releases": _of_kernels("releases"),
    "lost-wakes": _of_kernels("lost-wakes"),
}
