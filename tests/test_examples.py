"""Every example runs, is short, and is linked from the documentation."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.state import LIMIT, until

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ALONE = [path for path in EXAMPLES if path.stem != "snapshot_manager"]
MOST_LINES = 60


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_there_are_six_examples() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_linked(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert text.startswith('"""')
    assert text.splitlines()[0].endswith("?")
    pages = [page for page in (ROOT / "docs").rglob("*.md") if f"examples/{path.name}" in page.read_text()]
    assert pages, "no page of docs links to it"


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lazy_array", "16384 of 16384 pages are loaded"),
        ("hand_off", "the sum of all bytes is 1069547520"),
        ("shared_image", "first byte 77, sum 1069547597, 4 of 8192 KiB are its own"),
        ("computed_pages", "[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]"),
        ("incremental_checkpoint", "the checkpoint has all bytes"),
    ],
)
def test_examples_run(name: str, expected: str, tmp_path: Path) -> None:
    assert expected in run([str(ROOT / "examples" / f"{name}.py")], tmp_path)


# What it imports first may lie where this user may not look.
AS_NOBODY = """
import multiprocessing, os, pathlib, socket, sys, tempfile
import numpy, pyuffd, tqdm.auto
text = pathlib.Path(sys.argv[1]).read_text()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
exec(compile(text, sys.argv[1], "exec"), {"__name__": "__main__", "__file__": sys.argv[1]})
"""


@pytest.mark.requires_root
@pytest.mark.parametrize("name", ["lazy_array", "incremental_checkpoint"])  # the others start an interpreter
def test_examples_run_without_permissions(name: str, tmp_path: Path) -> None:
    assert run(["-c", AS_NOBODY, str(ROOT / "examples" / f"{name}.py")], tmp_path)


def test_the_example_of_a_snapshot_manager(tmp_path: Path) -> None:
    """Two guests, and between them one that sends nonsense."""
    image, path = tmp_path / "memory", str(tmp_path / "manager.sock")
    image.write_bytes(bytes(range(256)) * (8 << 12))
    examples = ROOT / "examples"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(examples / "snapshot_manager.py"), path, str(image), "2"]
    manager = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: Path(path).exists() or manager.poll() is not None)
        guest = [str(examples / "hand_off.py"), path]
        assert "the sum of all bytes is 1069547520" in run(guest, tmp_path)
        with socket.socket(socket.AF_UNIX) as wrong:
            wrong.connect(path)
            wrong.sendall(b'{"regions": 1}')
        assert "the sum of all bytes is 1069547520" in run(guest, tmp_path)
        told, _ = manager.communicate(timeout=LIMIT)
    finally:
        manager.kill()
        manager.wait()
    assert manager.returncode == 0, told
    assert "refused: " in told
    assert told.count(": ended by ") == 2
