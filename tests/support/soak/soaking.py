"""Everything at random, for minutes: living targets, kills, forks, limits, endings; prints counts, of losses too.

Every part runs in a process of its own, which has a time limit: what hangs or crashes there is counted. A part draws
what it does from the seed that is printed when it loses something: run it again with ``--part`` and ``--seed``.
"""

import argparse
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from support.child import Child, tell
from support.soak.counting import LOSSES, OF_STATS, Counts


@dataclass(frozen=True)
class Part:
    """A function of a module here, which draws what it does from a ``random.Random``, and returns what it counted.

    Attributes:
        module: It stands there.
        name: Of the function.
        weight: How often it is drawn, among the others.
        needs_root: Whether it must be root's.
        limit: In seconds.
        kills: Whether it kills managers: the parts of ``--kill``.
    """

    module: str
    name: str
    weight: int
    needs_root: bool = False
    limit: float = 60.0
    kills: bool = False

    def run(self, seed: int) -> Counts:
        """Run it in a process; how that ended is counted, too."""
        with Child(_run, self.module, self.name, seed, limit=self.limit) as child:
            told, code = child.outcome()
            errors = child.errors()
        counts = Counts(told[0]) if told else Counts()
        if code == -signal.SIGKILL or (code and "Timeout (" in errors):
            counts["hung children"] += 1
        elif code < 0:
            counts["crashes"] += 1
        elif code or not told:
            counts["failures"] += 1
        if lost(counts):
            print(f"lost by --part {self.name} --seed {seed}, which ended with {code}: {dict(counts)}", file=sys.stderr)
            print(errors, file=sys.stderr)
        return counts


def _run(module: str, name: str, seed: int) -> None:
    """What the process of a part runs."""
    part = getattr(importlib.import_module(f"support.soak.{module}"), name)
    tell(part(random.Random(f"{name} {seed}")))


PARTS = (
    Part("living", "lives", 20, limit=150),
    Part("living", "races", 8),
    Part("living", "games", 10, limit=150),
    Part("starving", "descriptors", 8),
    Part("starving", "threads", 8, needs_root=True),
    Part("starving", "locked", 8, needs_root=True),
    Part("forking", "forks", 10),
    Part("dying", "inheritances", 10, kills=True),
    Part("dying", "poisonings", 6, kills=True),
    Part("crowding", "execs", 8),
    Part("crowding", "crowds", 8, needs_root=True),
)
# What the parts did, beside what the statistics of targets tell.
_DONE = (
    "games",
    "kills",
    "forks at the limit",
    "poisoned children",
    "refused for descriptors",
    "refused for threads",
    "served locked",
    "own forks",
    "execs",
    "crowds",
    "managers killed",
    "guards killed",
    "take-overs",
    "pages poisoned",
    "orphans",
)


def lost(counts: Counts) -> int:
    return sum(counts[loss] for loss in LOSSES)


def _minutes(minutes: float) -> Iterator[float]:
    """Seconds that have passed, until the minutes are over; with a progress bar."""
    began = time.monotonic()
    whole = round(minutes * 60)
    with tqdm(total=whole, unit="s", desc="soak") as bar:
        while (passed := time.monotonic() - began) < minutes * 60:
            yield passed
            bar.update(min(int(time.monotonic() - began), whole) - bar.n)


def _parts(name: str | None, kill: bool) -> Sequence[Part]:
    """Those that this user can run, or the named one, or those that kill managers."""
    if name:
        return [part for part in PARTS if part.name == name]
    if kill:
        return [part for part in PARTS if part.kills]
    parts = [part for part in PARTS if os.geteuid() == 0 or not part.needs_root]
    if len(parts) < len(PARTS):
        print("left out, as they need root:", *(part.name for part in PARTS if part not in parts))
    return parts


def main() -> int:
    """Run, print, and return 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the first part (default: drawn)")
    parser.add_argument("--part", choices=[part.name for part in PARTS], help="no other part (default: all)")
    parser.add_argument("--kill", action="store_true", help="only the parts that kill managers and guards")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    parts = _parts(options.part, options.kill)
    total = Counts()
    for _ in _minutes(options.minutes):
        (part,) = random.Random(seed).choices(parts, [part.weight for part in parts])
        total.update(part.run(seed))
        total["parts"] += 1
        total[f"parts: {part.name}"] += 1
        seed += 1
    for name in ("parts", *(f"parts: {part.name}" for part in parts), *_DONE, *OF_STATS, *LOSSES):
        print(f"{name:24} {total[name]:>12,}")
    print(f"on Linux {os.uname().release}, {os.cpu_count()} CPUs; last seed {seed - 1}")
    return int(lost(total) > 0)


if __name__ == "__main__":
    sys.exit(main())
