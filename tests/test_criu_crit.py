"""CRIU's own tool crit reads what the imitation writes, and ``Images`` what crit writes."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.criu_images import CUT, PAGE, REGULAR, Imitated, Mapped, Saved, write, write_shared

from pyuffd.criu import Images, schema

BASE = 0x7F0000000000


def crit(*words: str) -> str:
    """What crit prints. It belongs to the system's Python, so it does not see this one's packages."""
    found = shutil.which("crit")
    if found is None:
        pytest.skip("CRIU's crit is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run([found, *words], env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def decoded(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(crit("decode", "-i", str(path)))["entries"]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mapped = (
        Mapped(BASE, 4 * CUT),
        Mapped(BASE + 4 * CUT, CUT, 0x21, REGULAR | schema.VMA_ANON_SHARED, shmid=5, pgoff=PAGE),
    )
    saved = (Saved(BASE + PAGE, 2 * CUT + PAGE), Saved(BASE + 3 * CUT, PAGE, "present"))
    tasks = [Imitated(7, comm="init", mapped=mapped, saved=saved, threads=(8, 9)), Imitated(10, 7, "zombie")]
    written = write(tmp_path, tasks, old=True)  # Debian's crit is older than the field nr_pages of 4.2
    write_shared(written, 5, CUT, 9, old=True)
    return tmp_path


def test_crit_reads_what_the_imitation_writes(folder: Path) -> None:
    task = Images(folder).tasks[7]
    assert decoded(folder / "inventory.img") == [{"img_version": 2}]
    assert [(one["pid"], one["ppid"], one["threads"]) for one in decoded(folder / "pstree.img")] == [
        (7, 0, [7, 8, 9]),
        (10, 7, [10]),
    ]
    assert decoded(folder / "core-7.img")[0]["tc"]["comm"] == task.comm == "init"
    (mm,) = decoded(folder / "mm-7.img")
    names = ("start", "end", "pgoff", "shmid", "prot", "flags", "status")
    assert [tuple(vma[name] for name in names) for vma in mm["vmas"]] == task.vmas
    head, *entries = decoded(folder / "pagemap-7.img")
    assert head == {"pages_id": 1}
    assert [(one["vaddr"], one["nr_pages"] * PAGE) for one in entries if one["flags"] == 6] == [
        (BASE + PAGE, CUT),
        (BASE + PAGE + CUT, CUT),
        (BASE + PAGE + 2 * CUT, PAGE),
    ]
    assert sum(one["nr_pages"] * PAGE for one in entries) == task.totals.plain


def test_crit_shows_the_tree(folder: Path) -> None:
    lines = [line.split() for line in crit("x", str(folder), "ps").splitlines()]
    assert lines[1:] == [["7", "7", "7", "init"], ["10", "7", "7", "zombie"]]


@pytest.mark.parametrize("name", ["inventory", "pstree", "core-7", "mm-7", "pagemap-7", "pagemap-shmem-5"])
def test_crit_writes_the_same_bytes(folder: Path, name: str) -> None:
    ours = (folder / f"{name}.img").read_bytes()
    text, theirs = folder / "text", folder / "theirs"
    text.write_text(json.dumps(json.loads(crit("decode", "-i", str(folder / f"{name}.img")))))
    crit("encode", "-i", str(text), "-o", str(theirs))
    assert theirs.read_bytes() == ours
