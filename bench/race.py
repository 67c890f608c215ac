"""Is the early close safe? A million of them, raced by threads that touch the very pages.

In each round the threads touch all pages of a small region while its pages are copied, all or a random half, and the
userfaultfd is closed right after the last copy. Every access must come back, without SIGBUS, with the bytes that were
copied, or zeros where nothing was; what the threads wrote must be there in the end. Each configuration runs in a
process of its own; one that hangs has lost a thread.

Afterwards the rates at which UNREGISTER, UNREGISTER and WAKE, and close leave a thread asleep, with intervals of 95 %
confidence (Wilson).
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats
from tqdm import tqdm

import pyuffd
from pyuffd import _workload

from .harness.metadata import collect

_THREADS = (1, 2, 4, 8)
_PAGES = (1, 2, 16)
_RELEASES = ("unregister", "unregister-and-wake", "close")
_WAITERS = (2, 4)
# A configuration may take a minute where others share its CPUs; one that takes this long hangs.
_TIME_LIMIT = 600.0
_SHARE_OF_HUGETLB = 0.002  # copying 2 MiB takes as long as 500 small pages


@dataclass(frozen=True)
class Config:
    """One way to race: the arguments of ``_workload.race_closes``."""

    kind: str
    threads: int
    pages: int
    write: bool
    complete: bool
    shared: bool = False
    thp: bool = False

    @property
    def memory(self) -> str:
        """The kind of memory, in a word or two."""
        return "anonymous, THP" if self.thp else self.kind + (", shared" if self.shared else "")


def configs(hugetlb: bool) -> Iterator[Config]:
    """All combinations; huge zero pages only matter where pages are missing and written."""
    for threads in _THREADS:
        for pages in _PAGES:
            for write in (False, True):
                for complete in (True, False):
                    yield Config("anonymous", threads, pages, write, complete)
                    yield Config("memfd", threads, pages, write, complete, shared=True)
                    if hugetlb and pages < 16:
                        yield Config("hugetlb", threads, pages, write, complete)
            yield Config("anonymous", threads, pages, write=True, complete=False, thp=True)


def main() -> int:
    """Race, count and print; 1 where anything was lost, wrong or killed, or fewer closes were raced than asked for."""
    options = _parse()
    if options.worker:
        print(json.dumps(_work(json.loads(options.worker))))
        return 0
    if options.closes < 1 or options.wake_seconds <= 0:
        print("--closes must be at least 1, and --wake-seconds more than 0", file=sys.stderr)
        return 1
    if options.output and not options.output.parent.is_dir():
        print(f"{options.output.parent} is no folder: choose another place for the output", file=sys.stderr)
        return 1
    if options.output and options.output.exists():
        print(f"{options.output} exists and is not overwritten: choose another name", file=sys.stderr)
        return 1
    races = _race_all(options.closes)
    ways = [(release, threads) for threads in _WAITERS for release in _RELEASES]
    wakes = [_count_wakes(*way, options.wake_seconds) for way in tqdm(ways, desc="lost wake-ups")]
    if options.output:
        raw = {"metadata": collect(), "races": races, "lost_wakes": wakes}
        options.output.write_text(json.dumps(raw, indent=1) + "\n")
    return _print(races, wakes, options.closes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.race", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--closes", type=int, default=1_000_000, help="in all (default: %(default)s)")
    parser.add_argument("--wake-seconds", type=float, default=20.0, help="for each count of lost wake-ups")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the counts as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(task: dict[str, Any]) -> dict[str, Any]:
    if "release" in task:
        rounds, lost = _workload.count_lost_wakes(**task)
        return {"rounds": rounds, "lost": lost}
    return dict(_workload.race_closes(**task))


def _race_all(closes: int) -> list[dict[str, Any]]:
    hugetlb = _has_hugetlb()
    if not hugetlb:
        print("skipped hugetlb: no page is reserved (sysctl vm.nr_hugepages)", file=sys.stderr)
    every = list(configs(hugetlb))
    small = sum(config.kind != "hugetlb" for config in every)
    share = math.ceil(closes / small)
    races = []
    with tqdm(total=closes, unit="close", unit_scale=True) as bar:
        for config in every:
            amount = math.ceil(share * _SHARE_OF_HUGETLB) if config.kind == "hugetlb" else share
            found = _in_process(asdict(config) | {"closes": amount, "seconds": _TIME_LIMIT / 2})
            races.append(asdict(config) | {"memory": config.memory} | found)
            bar.update(found.get("closes", 0))
    return races


def _has_hugetlb() -> bool:
    try:
        mapping = pyuffd.Mapping(2 * pyuffd.probe().hugetlb_page_size or 1, "hugetlb")
    except OSError:
        return False
    mapping.close()
    return True


def _count_wakes(release: str, threads: int, seconds: float) -> dict[str, Any]:
    task = {"release": release, "threads": threads, "rounds": 1 << 40, "seconds": seconds}
    return {"release": release, "threads": threads} | _in_process(task)


def _in_process(task: dict[str, Any]) -> dict[str, Any]:
    """Do it in a process of its own; says why there is no result, if there is none."""
    command = [sys.executable, "-m", __spec__.name, "--worker", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"hung for {_TIME_LIMIT:.0f} s: a thread was lost"}
    if done.returncode != 0:
        return {"failure": f"exit code {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _print(races: Sequence[dict[str, Any]], wakes: Sequence[dict[str, Any]], closes: int) -> int:
    counted = ["closes", "raced", "accesses", "sigbus", "lost", "wrong"]
    every = pd.DataFrame(races).reindex(columns=["memory", *counted]).fillna(0)
    by_memory = every.groupby("memory")[counted].sum()
    by_memory.loc["all"] = by_memory.sum()
    print(by_memory.to_string(float_format="{:,.0f}".format), end="\n\n")
    print(pd.DataFrame(map(_wake_row, wakes)).to_string(index=False))
    failures = [entry["failure"] for entry in (*races, *wakes) if "failure" in entry]
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    wrong = by_memory.loc["all", ["sigbus", "lost", "wrong"]].sum()
    wrong += sum(wake.get("lost", 0) for wake in wakes if wake["release"] != "unregister")
    return 0 if not failures and not wrong and by_memory.loc["all", "closes"] >= closes else 1


def _wake_row(wake: dict[str, Any]) -> dict[str, Any]:
    row = {"release": wake["release"], "threads": wake["threads"]}
    if "failure" in wake or not wake["rounds"]:
        return row | {"rounds": 0, "that left one asleep": wake.get("failure", 0), "rate (95 %, Wilson)": ""}
    low, high = stats.binomtest(wake["lost"], wake["rounds"]).proportion_ci(method="wilson")
    rate = f"{wake['lost'] / wake['rounds']:.2e} ({low:.1e} .. {high:.1e})"
    return row | {"rounds": wake["rounds"], "that left one asleep": wake["lost"], "rate (95 %, Wilson)": rate}


if __name__ == "__main__":
    sys.exit(main())
