"""The stubs say what the extension modules are: mypy's stubtest compares them at run time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

UNAVOIDABLE = [
    r"\S+ is inconsistent, metaclass differs",  # pybind11 has a metaclass of its own
    # Objects that are made by functions alone inherit a constructor that refuses all arguments.
    r'\S+\.__init__ is inconsistent, stub does not have \*args parameter "args"',
]


@pytest.mark.timeout(240)
def test_stubs() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", "pyuffd._core", "pyuffd._workload"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in UNAVOIDABLE)] == []
    for pattern in UNAVOIDABLE:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no longer needed: {pattern}"
