"""A process that measures cases of one question, and prints a record of each thing it does.

python -m bench.harness.worker QUESTION PROCESS ROUNDS SEED FOLDER CASE...
"""

import json
import os
import random
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..questions import Context, load
from .case import Case, Round
from .machine import Watch
from .metadata import collect
from .records import FORMAT


def _work(question: str, process: int, rounds: int, seed: int, folder: Path, names: list[str]) -> None:
    cases = {case.name: case for case in load(question).cases(Context(folder))}
    _say({"kind": "process", "format": FORMAT, "process": process, "seed": seed, "metadata": collect()})
    for name in names:
        case = cases[name]
        _say({"kind": "case", "process": process, **_about(case)})
        order = random.Random(f"{seed}/{question}/{name}/{process}")
        watch = Watch()
        for found in case.measure(rounds, order):
            _say({"kind": "round", "process": process, "case": name, **_of_round(found)})
        _say({"kind": "done", "process": process, "case": name, "business": watch.business().as_dict()})


def _about(case: Case) -> Mapping[str, Any]:
    return {
        "case": case.name,
        "parameters": case.parameters,
        "pairs": case.pairs,
        "unit": case.unit,
        "control": case.control,
        "headline": case.headline,
    }


def _of_round(found: Round) -> Mapping[str, Any]:
    samples = found.samples.items()
    arrays = {
        arm: {name: array.tolist() for name, array in sample.arrays.items()} for arm, sample in samples if sample.arrays
    }
    record = {
        "round": found.number,
        "order": list(found.samples),
        "values": {arm: dict(sample.values) for arm, sample in samples},
    }
    return record | ({"arrays": arrays} if arrays else {})


def _say(record: Mapping[str, Any]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    _question, _process, _rounds, _seed, _folder, *_names = sys.argv[1:]
    try:
        _work(_question, int(_process), int(_rounds), int(_seed), Path(_folder), _names)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a thread that waits for faults which no longer come would hold up an ordinary exit
