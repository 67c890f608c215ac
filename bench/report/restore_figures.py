"""The figure of lazy restores: the daemon beside CRIU's and the loop, and a page server's fill beside a copy."""

import math

from ..arms import CRIU_LAZY_PAGES, LAZY_LOOP, SERVE_CRIU
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
    title = f"{case}: the last page is in after {seconds(results.median('criu', case, SERVE_CRIU))}"
    for arm, metric, what in (
        (CRIU_LAZY_PAGES, "exit", "criu lazy-pages takes {} times as long until it ends"),
        (LAZY_LOOP, "time", "a bare loop takes {} times as long"),
    ):
        ratio = compare(results, "criu", case, arm, SERVE_CRIU, metric).ratio
        if not math.isnan(ratio):
            title += f"; {what.format(times(ratio))}"
    return Drawn("criu", title[0].upper() + title[1:], SPREAD, dot_panels(panels, "time", log=True))
