"""Wheels for old systems: what the script finds, and what it refuses. test_packaging.py has one built."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from wheels.interpreters import Interpreter, find_interpreters, find_pyconfig
from wheels.running import WheelError

ROOT = Path(__file__).resolve().parent.parent
THIS = sys.version_info[:2]


def fake_python(folder: Path, said: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho {said}\n")
    path.chmod(0o755)
    return path


def test_wheels_are_made_for_this_python() -> None:
    found = find_interpreters()
    assert [one.version for one in found] == sorted({one.version for one in found})
    (this,) = find_interpreters([sys.executable])
    assert this == Interpreter(Path(sys.executable), THIS)
    assert this.name == f"cp{THIS[0]}{THIS[1]}"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("CPython 3 9 True True", "it is Python 3.9, and pyuffd needs 3.10"),
        ("PyPy 3 10 True True", "it is PyPy, and wheels are made for CPython"),
        ("CPython 3 13 True False", "it is a free-threaded build, and wheels are made for CPython with the GIL"),
        ("CPython 3 12 False True", "Python.h is missing: install python3.12-dev"),
    ],
)
def test_wheels_are_not_made_for_these(tmp_path: Path, said: str, reason: str) -> None:
    with pytest.raises(WheelError, match=re.escape(reason)):
        find_interpreters([str(fake_python(tmp_path, said))])


def test_wheels_for_a_python_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="it cannot be run"):
        find_interpreters([str(tmp_path / "none")])


def test_wheels_for_another_machine_need_its_headers(tmp_path: Path) -> None:
    python = Interpreter(Path(sys.executable), (3, 99))
    with pytest.raises(WheelError, match=r"no wheel of cp399 for aarch64: .* libpython3\.99-dev:arm64"):
        find_pyconfig(python, "aarch64", [tmp_path])
    header = tmp_path / "aarch64-linux-gnu" / "python3.99" / "pyconfig.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert find_pyconfig(python, "aarch64", [tmp_path]) == header


def workflows() -> list[Path]:
    return sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.stem)
def test_wheels_and_all_else_in_workflows_call_what_is_there(path: Path) -> None:
    """Each step is a call of something that runs here, too."""
    steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
    for step in steps:
        assert ("run" in step) != bool(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", ""))), step
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    for command in commands:
        assert "\n" not in command
        for script in re.findall(r"(?:^|\s)(\.ci/\w+|tests/run|bench/run)", command):
            assert (ROOT / script).exists(), command
