"""``pyuffd status``: what a daemon serves, as a table, as JSON, or live."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from pyuffd.daemon import control

_EVERY_SECONDS = 1.0
_ENDED_SHOWN = 5
_CLEAR = "\x1b[H\x1b[J"


def show(path: Path, *, as_json: bool, watch: bool) -> int:
    """Print the status, once or until Ctrl-C.

    Returns:
        The exit code.
    """
    before: dict[str, Any] | None = None
    while True:
        found, _ = control.ask(path, "status")
        text = json.dumps(found, indent=2) if as_json else table(found, before)
        print((_CLEAR if watch and sys.stdout.isatty() else "") + text, flush=True)
        if not watch:
            return 0
        before = found | {"at": time.time()}
        try:
            time.sleep(_EVERY_SECONDS)
        except KeyboardInterrupt:
            return 0


def table(found: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Return the table of a status; with the one before, its rates, too."""
    lines = [
        f"daemon {found['pid']} (pyuffd {found['version']}), up {_time(time.time() - found['since'])}, guard "
        f"{found['guard'] or 'none'}",
        f"{found['image']} at {found['socket']}",
        "",
        f"{'target':>6} {'pid':>8} {'pages':>10} {'missing':>10} {'done':>6} {'faults':>10} {'faults/s':>9} "
        f"{'poisoned':>8} {'up':>8}",
    ]
    earlier = {target["number"]: target for target in before["targets"]} if before else {}
    for target in found["targets"]:
        done = 1 - target["missing"] / target["pages"] if target["pages"] else 1.0
        rate = ""
        if before and target["number"] in earlier:
            seconds = max(time.time() - before["at"], 1e-3)
            rate = f"{(target['faults'] - earlier[target['number']]['faults']) / seconds:.0f}"
        pid = "child" if target["pid"] is None else target["pid"]
        lines.append(
            f"{target['number']:>6} {pid:>8} {target['pages']:>10} {target['missing']:>10} {done:>6.1%} "
            f"{target['faults']:>10} {rate:>9} {target['poisoned']:>8} {_time(time.time() - target['since']):>8}"
        )
    for target in found["ended"][-_ENDED_SHOWN:]:
        ending = target["ending"] or {}
        took = ending.get("seconds")
        lines.append(
            f"{target['number']:>6} {target['pid'] or 'child':>8} {target['pages']:>10} ended by "
            f"{ending.get('ending', '?')}{'' if took is None else f' in {took * 1e6:.0f} us'}, "
            f"{ending.get('missing_pages', '?')} missing"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h"
