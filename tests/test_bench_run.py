"""How the benchmarks are run: workers, their failures, resuming, and what the command refuses."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench import questions
from bench.command_line import main
from bench.harness.case import Arm, Case, Sample
from bench.harness.effort import EFFORTS, Effort
from bench.harness.records import Records
from bench.harness.runner import Plan, Runner
from bench.questions import Context
from bench.report.judge import compare
from bench.report.results import load

pytestmark = pytest.mark.timeout(240)


def case_of(question: str, name: str) -> Case:
    (case,) = (case for case in questions.load(question).cases(Context(Path())) if case.name == name)
    return case


ONE_REGION = case_of("ending", "1 region")


TWO = Effort("test", processes=2, rounds=2)


def measure(folder: Path, *cases: Case, effort: Effort = TWO, seed: int = 1) -> Runner:
    runner = Runner(Plan({"ending": cases}, effort, seed), folder)
    runner.run()
    return runner


def test_both_endings_are_measured_in_the_same_rounds(tmp_path: Path) -> None:
    assert measure(tmp_path, ONE_REGION, case_of("ending", "1024 regions")).failures == []
    results = load(tmp_path)
    assert [info.name for info in results.cases_of("ending")] == ["1 region", "1024 regions"]
    found = compare(results, "ending", "1024 regions", "unregister", "early-close")
    assert (found.processes, found.rounds, found.left_out) == (2, 4, 0)
    assert found.ratio > 1.5  # 3.4 on a quiet machine
    assert results.of("ending", "1 region", "keep-open").isna().all()  # it has no time
    assert (results.of("ending", "1 region", "keep-open", "filled-and-over") > 0).all()
    assert results.business.seconds.between(0.01, 60).all()


def test_the_order_of_the_arms_is_drawn_from_the_seed(tmp_path: Path) -> None:
    orders = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        measure(tmp_path / name, ONE_REGION, effort=Effort("test", 1, 4), seed=seed)
        orders[name] = [
            record["order"] for record in Records(tmp_path / name).read("ending") if record["kind"] == "round"
        ]
    assert orders["first"] == orders["again"] != orders["other"]
    assert len({tuple(order) for order in orders["first"]}) > 1


def test_a_control_is_measured_twice_in_each_round() -> None:
    measured: list[str] = []

    def measure_arm(name: str) -> float:
        measured.append(name)
        return 1.0

    @contextmanager
    def arms() -> Iterator[Sequence[Arm]]:
        yield [Arm(name, partial(measure_arm, name)) for name in ("a", "b")]

    case = Case("case", arms, control="a", warmups=1)
    rounds = list(case.measure(3, random.Random(1)))
    assert [found.number for found in rounds] == [-1, 0, 1, 2]
    assert all(set(found.samples) == {"a", "b", "a (again)"} for found in rounds)
    assert sorted(measured) == ["a"] * 8 + ["b"] * 4
    assert rounds[0].samples["a"] == Sample({"time": 1.0})


def test_a_hang_and_a_failure_leave_the_others_alone(tmp_path: Path) -> None:
    hangs = dataclasses.replace(case_of("ending", "16384 regions"), time_limit=0.5)
    unknown = dataclasses.replace(ONE_REGION, name="2 regions")  # the worker does not know it
    began = time.monotonic()
    runner = measure(tmp_path, hangs, ONE_REGION, unknown, effort=Effort("test", 1, 1))
    assert time.monotonic() - began < 60
    assert [failure.split(": ", 1)[0] for failure in runner.failures] == [
        "ending, 16384 regions, process 0",
        "ending, 2 regions, process 0",
    ]
    assert "hung: killed after 0 s" in runner.failures[0]
    assert "KeyError: '2 regions' (exit code 1)" in runner.failures[1]
    results = load(tmp_path)
    assert len(results.failures) == 2
    assert results.of("ending", "1 region", "early-close").size == 1


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    measure(tmp_path, ONE_REGION)
    path = tmp_path / "raw" / "ending.jsonl"
    before = path.read_text()
    measure(tmp_path, ONE_REGION)
    assert path.read_text() == before
    measure(tmp_path, ONE_REGION, effort=Effort("test", 3, 2))
    assert path.read_text().startswith(before)
    assert load(tmp_path).of("ending", "1 region", "early-close").size == 6


def test_what_cannot_be_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    measure(tmp_path, dataclasses.replace(ONE_REGION, unavailable="needs two CPUs"))
    assert load(tmp_path).skipped == ["ending, 1 region: needs two CPUs"]


def bench(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyuffd", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=cwd)


def test_the_list_names_every_question() -> None:
    done = bench("--list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(questions.NAMES)
    assert all(line.endswith("?") for line in lines)


def test_every_question_says_what_its_answer_decides() -> None:
    for name in questions.NAMES:
        assert "The answer tells" in (questions.load(name).__doc__ or ""), name
        cases = questions.load(name).cases(Context(Path()))
        assert len({case.name for case in cases}) == len(cases)
        assert any(case.control for case in cases), f"{name} has no control"


def test_the_headline_fits_into_three_minutes() -> None:
    """By the cases' own estimates, which a run on a quiet machine has set."""
    cases = {
        name: [case for case in questions.load(name).cases(Context(Path())) if case.headline]
        for name in questions.NAMES
    }
    plan = Plan({name: found for name, found in cases.items() if found}, EFFORTS["headline"], 1)
    assert plan.seconds < 180


def write_process(folder: Path, **record: object) -> None:
    Records(folder).append("ending", {"kind": "process", "process": 0, "seed": 1, **record})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "endings"], "there is no question 'endings': --list names them all"),
        (["--resume"], "--resume needs the folder to go on in: add --out DIR"),
        (["--out", "full"], "full is not empty: choose another --out, remove it, or go on in it with --resume"),
        (["--out", "other", "--resume"], "other has results of 0123abc, and this is "),
        (["--out", "newer", "--resume"], "has format 99, and this version reads 1: install a newer pyuffd"),
        (["--out", "file"], "file"),
        (["--out", "file/below"], "choose another --out"),
        (["--report", "--out", "nothing"], "nothing has no results: measure first, with --out nothing"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "notes").touch()
    Path("file").touch()
    write_process(Path("other"), metadata={"git_commit": "0123abc"})
    write_process(Path("newer"), metadata={"git_commit": "0123abc"}, format=99)
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert told.startswith("pyuffd bench: ")


def test_ctrl_c_leaves_a_report_and_resume_goes_on(tmp_path: Path) -> None:
    # A background job inherits that SIGINT is ignored.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from pyuffd.bench.command_line import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--only", "footprint", "--fast", "--out", "out"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    raw = tmp_path / "out" / "raw" / "footprint.jsonl"
    give_up = time.monotonic() + 100
    while not (raw.exists() and '"done"' in raw.read_text()):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)  # looks again
    running.send_signal(signal.SIGINT)
    printed, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "interrupted: the report is of what is there" in told
    assert "the report is out/report.html" in printed
    done = len(Records(tmp_path / "out").done("footprint"))
    assert 1 <= done < 3
    resumed = bench("--only", "footprint", "--fast", "--resume", "--out", "out", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert len(Records(tmp_path / "out").done("footprint")) == 3
    assert (tmp_path / "out" / "footprint.json").exists()


def test_a_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['scipy'] = None; from pyuffd.bench.command_line import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "pyuffd bench: scipy is missing: pip install 'pyuffd[bench]'\n"


def test_the_records_say_what_was_measured_where(tmp_path: Path) -> None:
    measure(tmp_path, ONE_REGION, effort=Effort("test", 1, 1))
    first = json.loads((tmp_path / "raw" / "ending.jsonl").read_text().splitlines()[0])
    assert {"kernel", "git_commit", "cpu_count", "release_generation", "pyuffd_version"} <= set(first["metadata"])
    assert "hostname" not in first["metadata"]
