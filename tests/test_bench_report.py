"""What the benchmarks compute and tell of raw results."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyperf
import pytest
from support.raw_results import QUIET, Values, write_case, write_headline

from bench import arms
from bench.harness.records import RecordError, Records
from bench.report.answers import answers, balance, headline, is_busy, quiet
from bench.report.cost_model import fit
from bench.report.goals import LongestGoal
from bench.report.judge import Noise, compare, mean_of_logs, noise
from bench.report.results import Results, load
from bench.report.words import seconds, sentence
from bench.report.write import write


def times(early: float, late: float | None, again: float | None = None) -> Values:
    found: dict[str, Mapping[str, float | None]] = {"early-close": {"time": early}, "unregister": {"time": late}}
    return found | ({} if again is None else {"early-close (again)": {"time": again}})


def five_times(processes: int = 6) -> list[list[Values]]:
    """Unregister takes about five times as long; the warm-up, which does not count, a thousand times."""
    spread = np.linspace(0.98, 1.02, processes)
    return [[times(1e-3, 1.0)] + [times(1e-3, 5e-3 * by, 1.01e-3) for by in (each, each * 1.01)] for each in spread]


def test_a_comparison_is_of_paired_rounds(tmp_path: Path) -> None:
    # Each process is ten times as slow as the one before, and the ratio is the same in all.
    rounds = [[times(1, 1), *(times(10.0**process, 2 * 10.0**process) for _ in range(3))] for process in range(4)]
    write_case(tmp_path, rounds)
    found = compare(load(tmp_path), "ending", "4096 regions", "unregister", "early-close")
    assert [found.ratio, found.low, found.high] == pytest.approx([2, 2, 2])
    assert (found.processes, found.rounds, found.left_out) == (4, 12, 0)


def test_a_process_counts_once(tmp_path: Path) -> None:
    """However many rounds it has: those of one process are more alike than those of two."""
    rounds = [[times(1, 1), *[times(1, 4)] * 9], [times(1, 1), times(1, 1)], [times(1, 1), times(1, 1)]]
    write_case(tmp_path, rounds)
    assert compare(load(tmp_path), "ending", "4096 regions", "unregister", "early-close").ratio == pytest.approx(
        4 ** (1 / 3)
    )


def test_zero_and_missing_values_lose_no_report(tmp_path: Path) -> None:
    rounds = five_times()
    rounds[0][1] = times(1e-3, 0.0)
    rounds[1][1] = times(1e-3, None)
    write_case(tmp_path, rounds)
    results = write(tmp_path)
    found = compare(results, "ending", "4096 regions", "unregister", "early-close")
    assert found.left_out == 2
    assert "2 of 12 rounds had no value of both" in sentence(found, Noise())
    benchmark = pyperf.BenchmarkSuite.load(str(tmp_path / "unregister.json")).get_benchmark("ending, 4096 regions")
    assert benchmark.get_nvalue() == 10
    assert benchmark.get_metadata()["values_left_out"] == 2


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_few_processes_have_no_interval(tmp_path: Path, processes: int) -> None:
    ratio, low, high = mean_of_logs(np.log(np.full(processes, 3.0)))
    assert math.isnan(low)
    assert math.isnan(high)
    assert math.isnan(ratio) if processes == 0 else ratio == pytest.approx(3)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(math.log(2), 0.1, (200, 20))
    held = sum(low <= 2 <= high for _, low, high in map(mean_of_logs, draws))
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize(
    ("limit", "at_most", "verdict"),
    [
        (6, True, "reached"),
        (4, True, "falls short"),
        (5, True, "undecided"),
        (4, False, "reached"),
        (6, False, "falls short"),
        (5, False, "undecided"),
    ],
)
def test_verdicts(tmp_path: Path, limit: float, at_most: bool, verdict: str) -> None:
    write_case(tmp_path, five_times())
    found = compare(load(tmp_path), "ending", "4096 regions", "unregister", "early-close")
    assert found.verdict(limit, at_most=at_most) == verdict


@pytest.mark.parametrize(("longest", "verdict"), [(0.9e-3, "reached"), (1.1e-3, "falls short")])
def test_one_round_decides_a_limit_of_the_longest(tmp_path: Path, longest: float, verdict: str) -> None:
    values: list[Values] = [{"arm": {"first access": value}} for value in (1.0, 0.2e-3, longest, 0.1e-3)]
    write_case(tmp_path, [values], question="restore", case="alone", pairs=[], control="")
    goal = LongestGoal("what", "restore", "alone", "arm", "first access", 1e-3)
    found = goal.outcome(load(tmp_path))
    assert (found.measured, found.interval, found.verdict) == (seconds(longest), "longest of 3", verdict)
    unknown = replace(goal, case="another")
    assert unknown.outcome(load(tmp_path)).verdict == "not measured"


def test_nothing_smaller_than_the_noise_is_a_difference(tmp_path: Path) -> None:
    def rounds(by: float, again: float) -> list[list[Values]]:
        return [[times(1, 1)] + [times(1.0, by * each, again * each)] * 2 for each in (0.999, 1.0, 1.001)]

    for name, by, again, differs in [("a", 1.05, 1.001, True), ("b", 1.05, 1.06, False), ("c", 1.05, 0.94, False)]:
        write_case(tmp_path / name, rounds(by, again))
        results = load(tmp_path / name)
        found = compare(results, "ending", "4096 regions", "unregister", "early-close")
        assert (found.relation(noise(results, "ending", "4096 regions")) == "differs") == differs, name
        assert ("within noise" in headline(results)) != differs


def test_the_default_is_told_with_what_a_wake_up_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values: Values = {"auto": {"time": 6e-6}, "adopt": {"time": 7e-6}, arms.WAKE_UP: {"time": 16e-6}}
    parameters = {"setup": "across", "wake_up_us": "of this host"}
    pairs = [("auto", "adopt")]
    write_case(
        tmp_path, [[values] * 3] * 6, question="default", case="across", pairs=pairs, control="", parameters=parameters,
        headline=False,
    )  # fmt: skip
    assert next(answers(load(tmp_path))).startswith("across (a wake-up takes 16.0 µs): auto takes 0.857 times as long")
    write(tmp_path)
    printed = capsys.readouterr().out
    assert "the default, across: auto / adopt" in printed
    assert "reached" in printed


def test_the_control_of_another_case_explains_nothing_away(tmp_path: Path) -> None:
    spread = (0.999, 1.0, 1.001)
    write_case(tmp_path, [[times(1, 1)] + [times(1.0, each, 1.2 * each)] * 2 for each in spread], case="1 region")
    write_case(tmp_path, [[times(1, 1)] + [times(1.0, 1.1 * each)] * 2 for each in spread], control="")
    results = load(tmp_path)
    relations = {
        case: compare(results, "ending", case, "unregister", "early-close").relation(noise(results, "ending", case))
        for case in ("1 region", "4096 regions")
    }
    assert relations == {"1 region": "no difference", "4096 regions": "undecided"}


def test_the_answer_in_words(tmp_path: Path) -> None:
    write_case(tmp_path, five_times())
    results = load(tmp_path)
    assert headline(results).startswith("4096 regions: early close 1.00 ms, unregister 5.02 ms: 5.02 times, 95 % 4.9")
    assert list(answers(results)) == [
        sentence(
            compare(results, "ending", "4096 regions", "unregister", "early-close"),
            noise(results, "ending", "4096 regions"),
        )
    ]
    assert "wins 1 and loses 0" in balance(results).summary


def test_the_words_follow_the_data(tmp_path: Path) -> None:
    """Where an early close loses, the report says so."""
    write_case(tmp_path, [[times(1, 1)] + [times(5e-3, 1e-3 * by)] * 2 for by in (0.99, 1.0, 1.01)])
    results = load(tmp_path)
    assert "early close 5.00 ms, unregister 1.00 ms: 0.200 times" in headline(results)
    assert "wins 0 and loses 1" in balance(results).summary
    assert balance(results).losses == ["It loses: ending, 4096 regions, time: 5.00 ms against 1.00 ms."]


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    write_case(tmp_path / "quiet", five_times())
    write_case(tmp_path / "busy", five_times(), business=QUIET | {"others": 1.7})
    write_case(tmp_path / "stolen", five_times(), business=QUIET | {"steal": 0.1})
    told = {name: quiet(load(tmp_path / name)) for name in ("quiet", "busy", "stolen")}
    assert [is_busy(load(tmp_path / name)) for name in told] == [False, True, True]
    assert "was quiet" in told["quiet"]
    assert "was BUSY" in told["busy"]
    assert "1.0% (ending)" in told["quiet"]  # the control


def test_what_was_begun_again_counts_alone(tmp_path: Path) -> None:
    write_case(tmp_path, [[times(1, 1), times(1, 9)]] * 3)
    write_case(tmp_path, [[times(1, 1), times(1, 2)]] * 3)
    assert compare(load(tmp_path), "ending", "4096 regions", "unregister", "early-close").ratio == pytest.approx(2)


def test_an_interrupted_run_has_a_report(tmp_path: Path) -> None:
    write_case(tmp_path, five_times())
    path = tmp_path / "raw" / "ending.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + '\n{"kind": "round", "pro')
    assert len(Records(tmp_path).done("ending")) == 5
    assert "5.02 times" in headline(write(tmp_path))


def test_failures_and_what_was_left_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, five_times())
    records = Records(tmp_path)
    records.append(
        "ending", {"kind": "failed", "process": 1, "case": "4096 regions", "why": "hung: killed after 120 s"}
    )
    records.append("tails", {"kind": "skipped", "case": "beside target", "why": "needs two CPUs"})
    results = write(tmp_path)
    assert results.failures == ["ending, 4096 regions, process 1: hung: killed after 120 s"]
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for text in ("hung: killed after 120 s", "needs two CPUs"):
        assert text in printed
        assert text in page


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind": "process", "format": 2}\n', "format 2, and this version reads 1: install a newer pyuffd"),
        ("{}}\n{}\n", "line 1 of .* is no JSON"),
        ("[1]\n", "line 1 of .* is no record"),
        ('{"kind": "round", "process": 0}\n', "line 1 of .* is no record"),
        ('{"kind": "round", "process": 0, "case": "a", "round": 0, "values": {}}\n', "a round of 'a' before the case"),
        ("", "has no results"),
    ],
)
def test_results_that_cannot_be_read(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "ending.jsonl").write_text(line)
    with pytest.raises(RecordError, match=message):
        load(tmp_path)


def test_pyperf_compares_the_endings(tmp_path: Path) -> None:
    write_case(tmp_path, five_times())
    write(tmp_path)
    command = [sys.executable, "-m", "pyperf", "compare_to", "unregister.json", "early-close.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "5.03 ms" in done.stdout
    assert "5.02x faster" in done.stdout


def test_the_same_results_make_the_same_report(tmp_path: Path) -> None:
    write_case(tmp_path, five_times())
    write(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first


def test_the_report_needs_no_extension(tmp_path: Path) -> None:
    """It is drawn from the raw results on any machine: here, one on which pyuffd cannot be imported."""
    write_case(tmp_path, five_times())
    root = Path(__file__).resolve().parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); sys.modules['pyuffd'] = None\n"
    code += f"from pathlib import Path; from bench.report.write import write; write(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5.02 times" in done.stdout


def test_the_cost_model_finds_its_constants() -> None:
    constants = np.array([20e-6, 50e-9, 300e-9, 15e-6])
    counts = np.array(
        [(1, many, many, 0) for many in (1, 64, 1024, 16384)]
        + [(1, 1024 + many, 1024, 0) for many in (1000, 30000)]
        + [(1, 64, 64, many) for many in (1, 64, 512)],
        np.float64,
    )
    spread = 1 + 0.01 * np.random.default_rng(1).standard_normal(len(counts))
    model = fit(counts, counts @ constants * spread)
    assert model.constants == pytest.approx(constants, rel=0.1)
    assert (np.abs(model.constants - constants) < 4 * model.errors).all()
    assert 0 < model.misfit < 0.05


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.03e-3, "1.03 ms"), (5.1e-6, "5.10 µs"), (0.215, "215 ms"), (48.1e-6, "48.1 µs"), (2, "2.00 s")],
)
def test_times_have_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_raw_results_are_lines_of_json(tmp_path: Path) -> None:
    write_case(tmp_path, five_times(1))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "raw" / "ending.jsonl").read_text().splitlines()]
    assert kinds == ["process", "case", "round", "round", "round", "done"]
    assert isinstance(load(tmp_path), Results)


@pytest.mark.parametrize(
    ("lost", "value"),
    [
        ({"early-close", arms.LOOP}, None),
        ({"early-close", "adopt"}, 0.0),
        ({"unregister", arms.filler(1), "mmap"}, None),
        ({"keep-open"}, 0.0),
    ],
)
def test_an_arm_without_values_loses_no_report(tmp_path: Path, lost: set[str], value: float | None) -> None:
    """What cannot be told without it is left out, and nothing is told of it that is no number."""
    write_headline(tmp_path)
    for path in (tmp_path / "raw").glob("*.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            for arm in lost & record.get("values", {}).keys() if record["kind"] == "round" else ():
                record["values"][arm] = dict.fromkeys(record["values"][arm], value)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page)) is None


@pytest.mark.parametrize("kinds", [{"skipped"}, {"failed"}, {"process"}, {"process", "case"}])
def test_a_run_in_which_nothing_was_measured_is_told(tmp_path: Path, kinds: set[str]) -> None:
    records = Records(tmp_path)
    write_case(tmp_path / "whole", five_times(1))
    every = [*Records(tmp_path / "whole").read("ending"), {"kind": "failed", "process": 0, "case": "x", "why": "hung"}]
    for record in [*every, {"kind": "skipped", "case": "y", "why": "needs two CPUs"}]:
        if record["kind"] in kinds:
            records.append("ending", record)
    if kinds == {"process"}:
        with pytest.raises(RecordError, match="has no results"):
            load(tmp_path)
    else:
        assert headline(write(tmp_path)) == "Nothing was measured that can be compared."


def test_a_machine_that_changed_is_told(tmp_path: Path) -> None:
    write_case(tmp_path, five_times())
    path = tmp_path / "raw" / "ending.jsonl"
    path.write_text(path.read_text().replace('"kernel": "6.18"', '"kernel": "6.12"', 1))
    assert "NOT COMPARABLE: during the run there was a change of kernel (6.12, 6.18)." in quiet(load(tmp_path))
