"""Single figures that can be quoted; arguments are separated by `|`.

more                  QUESTION | CASE | ARM / OTHER [| METRIC]: by how much the arm's median is longer
median, least, most   QUESTION | CASE | ARM [| METRIC]: of all values
ratio, interval       QUESTION | CASE | ARM / OTHER [| METRIC]: how many times as much the arm takes; 95 %
noise                 QUESTION: by how much an arm may differ from itself
told, race            KEY: of the machine, as each worker tells it; as the race of closes does
date                  when the run began; of a run apart, of QUESTION
commit                what was measured, in twelve digits; of a run apart, of QUESTION
part                  ENDING | NUMBER: a constant of what an ending costs the kernel, in the order of cost_model.PARTS
image                 the bytes of the real program's memory
left, waked           KERNEL | EXPERIMENT: threads that UNREGISTER left asleep, of so many; such rounds, of so many
"""

import math
from collections.abc import Callable
from typing import Any

from ..report.cost_model import cost_model
from ..report.judge import Comparison, compare, noise
from ..report.words import seconds, times
from .sources import Sources


def amount(value: float, unit: str) -> str:
    """A value with its unit."""
    if math.isnan(value):
        raise ValueError("there is no value")
    if unit == "byte":
        return f"{value / (1 << 20):.3g} MiB"
    return seconds(value) if unit == "second" else f"{value:.3g} {unit}s"


def compared(sources: Sources, question: str, case: str, arms: str, metric: str = "time") -> Comparison:
    """Two arms, written as ARM / OTHER."""
    arm, _, other = arms.partition(" / ")
    found = compare(sources.of(question), question, case, arm, other, metric)
    if math.isnan(found.ratio):
        raise ValueError("nothing can be compared")
    return found


def _of_values(statistic: str) -> Callable[..., str]:
    def tell(sources: Sources, question: str, case: str, arm: str, metric: str = "time") -> str:
        results = sources.of(question)
        values = results.of(question, case, arm, metric)
        return amount(float(values.agg(statistic)), results.cases[question, case].unit)

    return tell


def _ratio(sources: Sources, *of: str) -> str:
    return times(compared(sources, *of).ratio)


def _more(sources: Sources, question: str, case: str, arms: str, metric: str = "time") -> str:
    found = compared(sources, question, case, arms, metric)
    return amount(found.median - found.other_median, sources.of(question).cases[question, case].unit)


def _interval(sources: Sources, *of: str) -> str:
    found = compared(sources, *of)
    return f"{times(found.low)} to {times(found.high)}"


def _noise(sources: Sources, question: str) -> str:
    return f"{noise(sources.of(question), question).ratio - 1:.1%}"


def _told(sources: Sources, key: str) -> str:
    (answer,) = sources.results.told(key)
    return answer


def _race(sources: Sources, key: str) -> str:
    return str(sources.race["metadata"][key])


def _date(sources: Sources, question: str) -> str:
    return sources.of(question).told("date")[0][:10]


def _commit(sources: Sources, question: str) -> str:
    (commit,) = sources.of(question).told("git_commit")
    return commit[:12]


def _part(sources: Sources, ending: str, number: str) -> str:
    model = cost_model(sources.results, ending)
    if model is None:
        raise ValueError("it cannot be fitted")
    return seconds(model.constants[int(number)])


def _image(sources: Sources, _: str) -> str:
    if sources.results.image is None:
        raise ValueError("no image was captured")
    return f"{sources.results.image['total'] / (1 << 20):.0f} MiB"


def record_of(sources: Sources, kernel: str, experiment: str) -> dict[str, Any]:
    """What one experiment of the laboratory gave on a kernel."""
    (record,) = (each for each in sources.kernels[kernel].records if each["experiment"] == experiment)
    return record


def _left(sources: Sources, kernel: str, experiment: str) -> str:
    record = record_of(sources, kernel, experiment)
    return f"{record['asleep']} of {record['rounds']}"


def _waked(sources: Sources, kernel: str, experiment: str) -> str:
    record = record_of(sources, kernel, experiment)
    return f"{record['lost']:,} of {record['rounds']:,}"


KINDS: dict[str, Callable[..., str]] = {
    "median": _of_values("median"),
    "least": _of_values("min"),
    "most": _of_values("max"),
    "ratio": _ratio,
    "more": _more,
    "interval": _interval,
    "noise": _noise,
    "told": _told,
    "race": _race,
    "date": _date,
    "commit": _commit,
    "part": _part,
    "image": _image,
    "left": _left,
    "waked": _waked,
}
