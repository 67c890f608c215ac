"""The figure of lazy restores: the daemon beside the loop, and a page server's fill beside a copy."""

from ..arms import LAZY_LOOP, SERVE_CRIU
from .judge import compare
from .plotting import SPREAD, Drawn, dot_panels
from .results import Results
from .words import seconds, times

_METRICS = {"time": "until the last page is in", "worst": "longest access", "first": "first access"}


def criu(results: Results) -> Drawn | None:
    """What a restored task waits for, and for how long memory is missing."""
    panels = {}
    for info in results.cases_of("criu"):
        if len(results.by_arm("criu", info.name)) < 2:
            continue
        for metric, what in _METRICS.items():
            arms = results.by_arm("criu", info.name, metric)
            if arms:
                panels[f"{info.name}: {what}"] = arms
    case = next((info.name for info in results.cases_of("criu") if info.name.startswith("restore")), None)
    if case is None or not panels:
        return None
    found = compare(results, "criu", case, LAZY_LOOP, SERVE_CRIU)
    last = results.median("criu", case, SERVE_CRIU)
    title = (
        f"{case}: the last page is in after {seconds(last)}; the loop that lazy restores have takes "
        f"{times(found.ratio)} times as long"
    )
    return Drawn("criu", title[0].upper() + title[1:], SPREAD, dot_panels(panels, "time", log=True))
