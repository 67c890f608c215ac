"""``pyuffd images``, as its user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.criu_images import CUT, PAGE, Imitated, Mapped, Saved, write, write_shared

BASE = 0x7F0000000000


def command(*words: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "pyuffd", "images", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mapped = (Mapped(BASE, 2 * CUT), Mapped(BASE + 2 * CUT, 2 * CUT))
    saved = (
        Saved(BASE, 2 * CUT),
        Saved(BASE + 2 * CUT, 6 * PAGE, "present", block=1),
        Saved(BASE + 3 * CUT, PAGE, "remote"),
    )
    tasks = [Imitated(7, comm="redis\x1b[2J", mapped=mapped, saved=saved), Imitated(8, 7, "gone")]
    write_shared(write(tmp_path, tasks, version=3), 4, CUT, 9)
    return tmp_path


def test_the_table_has_tasks_regions_and_sizes(folder: Path) -> None:
    done = command(folder)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][-4:] == ["version", "3,", "tasks:", "2"]
    assert rows[2] == ["pid", "ppid", "program", "regions", "ranges", "lazy", "eager", "compressed", "stored"]
    assert " ".join(rows[3][:11]) == "7 0 redis?[2J 2 2 2.0 MiB 24.0 KiB 24.0 KiB"
    assert " ".join(rows[4]) == "8 7 gone no memory"
    assert " ".join(rows[5][:6]) == "shared 4 0 B 1.0 MiB"
    assert rows[6][:3] == ["all", "2.0", "MiB"]
    assert done.stdout.splitlines()[7] == "4.0 KiB are with the page server"


def test_a_check_finds_nothing_or_tells_it(folder: Path) -> None:
    done = command("--check", folder)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "nothing is wrong with them"
    (folder / "pages-1.img").write_bytes((folder / "pages-1.img").read_bytes() + b"!")
    (folder / "pages-9.img").unlink()
    done = command("--check", folder)
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["pages-9.img", "pages-1.img"]


def test_programs_get_json(folder: Path) -> None:
    found = json.loads(command("--json", "--check", folder).stdout)
    assert found["problems"] == []
    assert [(one["pid"], one["has_memory"], one["regions"]) for one in found["tasks"]] == [(7, True, 2), (8, False, 0)]
    assert found["tasks"][0]["program"] == "redis\x1b[2J"
    assert found["totals"]["lazy"] == 2 * CUT + PAGE
    (folder / "pages-9.img").unlink()
    done = command("--json", "--check", folder)
    assert (done.returncode, len(json.loads(done.stdout)["problems"])) == (1, 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "pyuffd images: nowhere: No such file or directory\n"),
        ([__file__], f"pyuffd images: {__file__}: Not a directory\n"),
        (["."], "pyuffd images: inventory.img: the file is missing: . has no images of criu dump\n"),
    ],
)
def test_an_error_is_one_line(words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_a_missing_package_is_named(folder: Path) -> None:
    code = (
        "import sys; sys.modules['google.protobuf'] = None; "
        "from pyuffd._command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", code, "images", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "pyuffd images: CRIU's images need protobuf: pip install 'pyuffd[criu]'\n"
    assert done.returncode == 1


def test_a_full_disk_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "pyuffd", "images", str(folder)]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "pyuffd: cannot write: No space left on device\n")
