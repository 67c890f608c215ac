"""The raw results: one line of JSON for each thing that happened, in one file for each question.

    {"kind": "process", "process": 0, "metadata": {...}}            a worker began
    {"kind": "case", "process": 0, "case": "...", ...}              it began a case: what was varied, what is compared
    {"kind": "round", "process": 0, "case": "...", "round": 0,
     "order": [...], "values": {arm: {metric: number}}, "arrays": {arm: {name: [...]}}}
    {"kind": "done", "process": 0, "case": "...", "business": {...}}  the case is complete in this process
    {"kind": "failed", "process": 0, "case": "...", "why": "..."}     it is not, and why
    {"kind": "skipped", "case": "...", "why": "..."}                what this machine or user cannot run

What a worker began again stands below what it had before, and counts alone. Nothing is ever taken out of a file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
FOLDER = "raw"

Record = dict[str, Any]

# What each kind of record has besides its kind.
_PARTS = {
    "process": {"process", "seed", "metadata"},
    "case": {"process", "case", "parameters", "pairs", "unit", "control", "headline"},
    "round": {"process", "case", "round", "values"},
    "done": {"process", "case", "business"},
    "failed": {"process", "case", "why"},
    "skipped": {"case", "why"},
}


def read_line(line: str) -> Record:
    """Read one record."""
    record: Record = json.loads(line)
    return record


def is_record(record: Any) -> bool:
    """Whether it has what its kind of record has."""
    if not isinstance(record, dict):
        return False
    kind = record.get("kind")
    return isinstance(kind, str) and kind in _PARTS and _PARTS[kind] <= record.keys()


class RecordError(Exception):
    """A folder of results that cannot be used; the message says why, and what to do."""


class Records:
    """The raw results in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    @property
    def questions(self) -> list[str]:
        """Those that have results."""
        return sorted(path.stem for path in self._folder.glob("*.jsonl"))

    def read(self, question: str) -> Iterator[Record]:
        """Give the question's records, in their order; a last line that was cut off counts as not written.

        Raises:
            RecordError: The file was written by a newer version, or is no such file.
        """
        path = self._folder / f"{question}.jsonl"
        if not path.exists():
            return
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            try:
                record = read_line(line)
            except json.JSONDecodeError:
                if number == len(lines):
                    return
                raise RecordError(
                    f"line {number} of {path} is no JSON: remove the file, or choose another folder"
                ) from None
            if isinstance(record, dict) and record.get("format", FORMAT) != FORMAT:
                raise RecordError(
                    f"{path} has format {record['format']!r}, and this version reads {FORMAT}: install a newer pyuffd"
                )
            if not is_record(record):
                raise RecordError(
                    f"line {number} of {path} is no record of a benchmark: remove the file, or choose another folder"
                )
            yield record

    def append(self, question: str, record: Mapping[str, Any]) -> None:
        """Write one record, at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{question}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def done(self, question: str) -> set[tuple[str, int]]:
        """The cases that are complete, and in which process."""
        return {(record["case"], record["process"]) for record in self.read(question) if record["kind"] == "done"}

    def commits(self) -> set[str]:
        """Those that measured."""
        return {
            record["metadata"]["git_commit"]
            for question in self.questions
            for record in self.read(question)
            if record["kind"] == "process"
        }
