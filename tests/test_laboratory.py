"""The kernel laboratory's parts that need no kernel: the edit, the archive, what a console says, verdicts, refusals."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.kernels import _archive, _missing, _report, _run, _variants, _verdict

ROOT = Path(__file__).resolve().parent.parent


SOURCE = """
    vm_fault_t ret = VM_FAULT_SIGBUS;
    ret = VM_FAULT_RETRY;
    if (unlikely(READ_ONCE(ctx->released))) {
        /*
         * Why, in some lines; "release_fault_lock(vmf);" among them.
         */
        release_fault_lock(vmf);
        goto out;
    }
    release_fault_lock(vmf);
"""


def test_the_generations_are_one_statement_apart() -> None:
    generations = {name: variant for name, variant in _variants.VARIANTS.items() if variant.statement}
    lines = {name: _variants.edited(SOURCE, variant).splitlines() for name, variant in generations.items()}
    assert lines["retry"] == SOURCE.splitlines()
    for generation, statement in (("sigbus", "ret = VM_FAULT_SIGBUS;"), ("nopage", "ret = VM_FAULT_NOPAGE;")):
        changed = [(a, b) for a, b in zip(lines["retry"], lines[generation], strict=True) if a != b]
        assert changed == [("        release_fault_lock(vmf);", f"        {statement}")]


@pytest.mark.parametrize(("source", "found"), [("", 0), (SOURCE * 2, 2), (SOURCE.replace("goto out", "return"), 0)])
def test_a_source_that_has_changed_is_refused(source: str, found: int) -> None:
    with pytest.raises(_variants.EditFailedError, match=f"{found} times where once is expected"):
        _variants.edited(source, _variants.VARIANTS["nopage"])


def test_what_has_no_statement_is_left_as_shipped() -> None:
    assert _variants.edited(SOURCE, _variants.VARIANTS["before-6.6"]) == SOURCE


def test_the_report_shows_the_patches_that_were_run() -> None:
    report = (ROOT / "docs/explanation/unregister-lost-wake.md").read_text()
    shown = re.findall(r"```(?:diff)?\n(\[PATCH.*?|---.*?)```", report, re.DOTALL)
    patches = sorted((ROOT / "bench/kernels/patches").glob("*.patch"))
    run = [
        part for patch in patches for part in re.split(r"\n---\n(?=---)", patch.read_text().removeprefix("Subject: "))
    ]
    assert [text.rstrip("\n") for text in shown] == [text.rstrip("\n") for text in run]


def test_the_reproducer_sees_that_a_waiting_thread_is_woken(tmp_path: Path) -> None:
    source, program = ROOT / "bench/kernels/unregister-lost-wake.c", tmp_path / "reproducer"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-pthread", str(source), "-o", str(program)], check=True)
    done = subprocess.run([program, "missing"], capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(done.stdout)
    assert (found["case"], found["rounds"], found["asleep"]) == ("missing", 10, 0)


def test_the_archive_is_read_by_cpio(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF and more")
    _archive.write_initramfs(tmp_path / "archive", {"init": program, "reproducer": program})
    data = (tmp_path / "archive").read_bytes()
    members = {}
    while data:
        assert data[:6] == b"070701"
        numbers = [int(data[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name = data[110 : 110 + name_size - 1].decode()
        start = (110 + name_size + 3) // 4 * 4
        members[name] = (oct(mode), data[start : start + size], tuple(numbers[9:11]))
        data = data[start + (size + 3) // 4 * 4 :]
    assert members == {
        "dev": ("0o40755", b"", (0, 0)),
        "dev/console": ("0o20600", b"", (5, 1)),
        "init": ("0o100755", b"\x7fELF and more", (0, 0)),
        "reproducer": ("0o100755", b"\x7fELF and more", (0, 0)),
        "TRAILER!!!": ("0o0", b"", (0, 0)),
    }


def test_a_console_is_read_to_where_it_ends() -> None:
    console = """[    0.1] Linux {version}
{"kernel": "6.12.117", "cpus": 2}
[    1.0] printk: {"experiment": "release", "end": "exited", "fault": "slept"}
{"experiment": "gup-mlock", "end": "hung"}
{"experiment": "gup-readv", "end": "ex"""
    run = _run._parsed("nopage", console)
    assert (run.kernel, run.complete) == ("6.12.117", False)
    assert [record["experiment"] for record in run.records] == ["release", "gup-mlock"]
    assert _run._parsed("retry", console + '\n{"complete": true}').complete


RELEASE = {"experiment": "release", "end": "exited", "why": ""}
PROBE = {"experiment": "probe", "end": "exited", "reason": "one CPU", "rounds": 3}
RACE = {"experiment": "missing", "end": "exited", "closes": 5000, "raced": 4000, "sigbus": 0, "wrong": 0, "lost": 0}
WAKE = {"experiment": "unregister", "end": "exited", "rounds": 700, "lost": 0}
LEFT = {"experiment": "left-wp", "end": "exited", "rounds": 10, "asleep": 0}


@pytest.mark.parametrize(
    ("experiment", "records", "severity", "text"),
    [
        ("release", [], "NOTHING", "no result"),
        ("release", [RELEASE | {"fault": "sigbus"}] * 5, "SIGBUS", "SIGBUS 5 of 5"),
        ("release", [RELEASE | {"fault": "spun", "minor_faults": 250_000}], "SPINS", "spins 1 of 1, up to 250,000"),
        ("release", [RELEASE | {"fault": "slept"}, RELEASE | {"fault": "undecided"}], "CLEAN", "sleeps 1 of 2"),
        ("release", [RELEASE | {"fault": "undecided", "why": "one CPU"}], "NOTHING", "one CPU"),
        ("probe", [PROBE | {"generation": "nopage"}], "SPINS", "nopage, 3 of 3 rounds"),
        ("probe", [PROBE | {"generation": "unknown"}], "NOTHING", "unknown: one CPU"),
        ("missing", [RACE], "CLEAN", "4,000 of 5,000 closes raced"),
        ("missing", [RACE | {"sigbus": 604}], "SIGBUS", "604 SIGBUS in 5,000 closes"),
        ("missing", [RACE | {"wrong": 1}], "ERROR", "1 wrong pages"),
        ("missing", [RACE | {"lost": 2, "sigbus": 1}], "ASLEEP", "2 threads lost"),
        ("missing", [{"end": "hung"}], "HANGS", "hangs"),
        ("missing", [{"end": "signalled", "signal": 9}], "NOTHING", "died"),
        ("close", [{"end": "signalled", "signal": 7}], "SIGBUS", "killed by SIGBUS"),
        ("missing", [{"end": "exited", "message": "no memory"}], "NOTHING", "no memory"),
        ("unregister", [WAKE], "CLEAN", "700"),
        ("unregister", [WAKE | {"lost": 3}], "ASLEEP", "3 of 700 rounds left one asleep"),
        ("left-wp", [LEFT], "CLEAN", "woken, 10 of 10"),
        ("left-wp", [LEFT | {"asleep": 9}], "ASLEEP", "9 of 10 left asleep"),
        ("gup-mlock", [{"end": "exited", "error": "", "call_ns": 10, "close_ns": 9}], "CLEAN", "clean"),
        ("gup-readv", [{"end": "exited", "error": "", "call_ns": 10, "close_ns": 1}], "NOTHING", "did not meet"),
        ("gup-mlock", [{"end": "exited", "error": "Bad address"}], "ERROR", "Bad address"),
    ],
)
def test_verdicts(experiment: str, records: list[dict[str, Any]], severity: str, text: str) -> None:
    found = _verdict.verdict(experiment, records)
    assert found.severity.name == severity
    assert text in found.text


def test_the_report_is_made_again_from_the_raw_results(tmp_path: Path) -> None:
    runs = [_run.Run("host", "6.18", [RELEASE | {"fault": "slept"}, WAKE], True, "console")]
    _report.write_raw(tmp_path, runs)
    assert (tmp_path / "console-host.log").read_text() == "console"
    again = _report.read_raw(tmp_path)
    assert _report.tables(again) == _report.tables(runs)
    assert "| a fault meets a released userfaultfd | sleeps 1 of 1 |" in _report.tables(again)["releases"]
    _report.draw(again, tmp_path)
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("releases", "lost-wakes"))


def test_a_kernel_is_in_the_tables_of_what_it_ran() -> None:
    runs = [
        _run.Run("retry", "6.12", [RELEASE | {"fault": "slept"}, WAKE], True, ""),
        _run.Run("patch-1", "6.12", [WAKE], True, ""),
    ]
    tables = _report.tables(runs)
    assert "patch-1" not in tables["releases"]
    assert all(name in tables["lost-wakes"] for name in ("retry", "patch-1"))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None if program in ("flex", "g++") else "/usr/bin/" + program)
    monkeypatch.setattr(_missing, "_LIBELF", tmp_path)
    monkeypatch.setattr(_missing, "_SOURCES", tmp_path)
    with pytest.raises(_missing.Unavailable, match=r"'apt-get install flex linux-source-6.12'.*--only host"):
        _missing.require_kernel_tools(["6.12"])
    with pytest.raises(_missing.Unavailable, match=r"without g\+\+.*pyuffd probe"):
        _missing.require_compiler()


def laboratory(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.kernels", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    done = laboratory("--out", tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [tmp_path / "kept"])
    assert "is not empty" in done.stderr


def test_a_report_of_an_earlier_run(tmp_path: Path) -> None:
    record = {"name": "host", "kernel": "6.18", "records": [WAKE | {"lost": 3}], "complete": True}
    (tmp_path / "kernels.json").write_text(json.dumps([record]))
    assert "3 of 700 rounds left one asleep" in laboratory("--report", tmp_path).stdout
