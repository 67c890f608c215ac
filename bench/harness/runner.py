"""Runs cases in worker processes, and writes what they say to the raw results.

pyperf's own runner measures one benchmark to a process, so it cannot interleave the arms of a comparison. A process
that hangs is killed, and one that fails is told; the cases that it had not measured yet go to a new one.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from .case import Case
from .effort import Effort
from .records import Records, read_line

# The folder that has the package `bench`, and its name: "bench" in a checkout, "pyuffd.bench" where it is installed.
_PACKAGE = __name__.rpartition(".harness.")[0]
_PATH = Path(__file__).resolve().parents[_PACKAGE.count(".") + 2]

_START_SECONDS = 0.4  # of a worker
_START_LIMIT = 120.0  # until its first word


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        cases: By the name of their question.
        effort: Processes and rounds of each case.
        seed: Of the order of arms and cases.
    """

    cases: Mapping[str, Sequence[Case]]
    effort: Effort
    seed: int

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        rounds = sum(
            case.seconds * ((case.rounds or self.effort.rounds) + case.warmups)
            for cases in self.cases.values()
            for case in cases
        )
        return self.effort.processes * (rounds + _START_SECONDS * len(self.cases))


class Runner:
    """Carries out a plan, whose results go to a folder. What is there already is not measured again."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._records = Records(folder)
        self.failures: list[str] = []

    def run(self) -> None:
        """Measure all that is missing; every question comes to its turn before any is measured by a second process."""
        for question, cases in self._plan.cases.items():
            for case in cases:
                if case.unavailable:
                    self._records.append(question, {"kind": "skipped", "case": case.name, "why": case.unavailable})
        todo = self._todo()
        with tqdm(total=sum(map(len, todo.values())), unit="case", smoothing=0.1) as bar:
            for (question, process), cases in todo.items():
                self._measure(question, process, cases, bar)

    def _todo(self) -> dict[tuple[str, int], list[Case]]:
        found: dict[tuple[str, int], list[Case]] = defaultdict(list)
        done = {question: self._records.done(question) for question in self._plan.cases}
        for process in range(self._plan.effort.processes):
            for question, cases in self._plan.cases.items():
                for case in cases:
                    if not case.unavailable and (case.name, process) not in done[question]:
                        found[question, process].append(case)
        return found

    def _measure(self, question: str, process: int, cases: list[Case], bar: "tqdm[Any]") -> None:
        left = list(cases)
        while left:
            bar.set_description(f"{question}: {left[0].name}")
            worker = _Worker(self._command(question, process, left))
            try:
                why = self._follow(worker, question, process, left, bar)
            finally:
                worker.end()
            if not why:
                return
            case = left.pop(0)
            self.failures.append(f"{question}, {case.name}, process {process}: {why}")
            self._records.append(question, {"kind": "failed", "process": process, "case": case.name, "why": why})
            bar.update()

    def _command(self, question: str, process: int, cases: Sequence[Case]) -> list[str]:
        effort = self._plan.effort
        numbers = [process, effort.rounds, self._plan.seed]
        return [
            sys.executable, "-m", f"{_PACKAGE}.harness.worker",
            question, *map(str, numbers), str(self._folder), *(case.name for case in cases),
        ]  # fmt: skip

    def _follow(self, worker: "_Worker", question: str, process: int, left: list[Case], bar: "tqdm[Any]") -> str:
        """Write down what it says; takes what it has done from ``left``. Returns why it did not come to its end."""
        while True:
            try:
                line = worker.line(left[0].time_limit if left else _START_LIMIT)
            except TimeoutError as error:
                return str(error)
            if line is None:
                return worker.why_it_ended()
            record = read_line(line)
            self._records.append(question, record)
            if record["kind"] == "done":
                left.pop(0)
                bar.update()
                bar.set_description(f"{question}: {left[0].name if left else 'done'}")


class _Worker:
    """A worker process, in a session of its own: its targets go with it when it is killed."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_PATH), *_python_path()])}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._case_began = time.monotonic()
        self._readers = [
            threading.Thread(target=self._read_lines, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self, stream: IO[str]) -> None:
        with stream:
            self._errors.extend(stream)

    def line(self, limit: float) -> str | None:
        """Wait for its next line; None at its end.

        Raises:
            TimeoutError: The case has taken longer than its limit.
        """
        try:
            line = self._lines.get(timeout=max(self._case_began + limit - time.monotonic(), 0.0))
        except queue.Empty:
            raise TimeoutError(f"hung: killed after {limit:.0f} s") from None
        if line is not None and '"kind": "round"' not in line[:20]:
            self._case_began = time.monotonic()
        return line

    def why_it_ended(self) -> str:
        """Say what went wrong; nothing where nothing did."""
        code = self._process.wait()
        self._readers[1].join()
        if code == 0:
            return ""
        last = "".join(self._errors).strip().rpartition("\n")[2] or "no message"
        return f"{last} (exit code {code})"

    def end(self) -> None:
        """Kill it, and what it started, unless it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join()


def _python_path() -> Iterator[str]:
    inherited = os.environ.get("PYTHONPATH")
    if inherited:
        yield inherited
