"""Every block of Python in README and docs runs, as root and as a user without permissions."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.documents.quotes import documents

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 60.0

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# (\w+\.py)\n")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")

# Imports and the program first: afterwards this user may not be able to read them.
_AS_NOBODY = """
import mmap, os, socket, sys
import numpy, pyuffd, pyuffd.criu
code = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
exec(code, {"__name__": "__main__"})
"""


def pages() -> list[Path]:
    return [path for path in documents(ROOT) if _BLOCK.search(path.read_text())]


def programs(page: Path) -> dict[str, str]:
    """Blocks that begin with the name of a file, by that name; all others are one program."""
    found: dict[str, str] = {}
    for block in _BLOCK.findall(page.read_text()):
        named = _NAME.match(block)
        name = named[1] if named else "page.py"
        found[name] = found.get(name, "") + block
    return found


def start(program: Path, user: str) -> "subprocess.Popen[str]":
    command = [sys.executable, *(["-c", _AS_NOBODY] if user == "nobody" else []), str(program)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=program.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(process: "subprocess.Popen[str]") -> None:
    try:
        output, errors = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        errors += f"\nit ran for more than {TIME_LIMIT} s"
    assert process.returncode == 0, output + errors


def check_both(manager: "subprocess.Popen[str]", folder: Path, user: str) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while not (folder / "manager.sock").exists() and manager.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        check(start(folder / "target.py", user))
    except BaseException:
        manager.kill()
        print(*manager.communicate())
        raise
    check(manager)


def runs() -> list[Any]:
    """Each page and user, but for the page that adopts: that starts an interpreter, where nobody may not look."""
    return [
        pytest.param(page, user, id=f"{page.relative_to(ROOT)}-{user}")
        for page in pages()
        for user in ("root", "nobody")
        if (page.name, user) != ("placement.md", "nobody")
    ]


@pytest.mark.requires_root
@pytest.mark.parametrize(("page", "user"), runs())
def test_docs_run(page: Path, user: str, tmp_path: Path) -> None:
    (tmp_path / "image.bin").write_bytes(bytes(range(256)) * (4 << 12))
    for path in (tmp_path, tmp_path / "image.bin"):
        path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    found = programs(page)
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    if "page.py" in found:
        check(start(tmp_path / "page.py", user))
    if "manager.py" in found:
        check_both(start(tmp_path / "manager.py", user), tmp_path, user)


@pytest.mark.parametrize("page", documents(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_the_tests_that_hold_what_is_said_of_trust_are_there() -> None:
    text = (ROOT / "docs" / "explanation" / "trust.md").read_text()
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for file, function in named:
        assert f"def {function}" in (ROOT / "tests" / file).read_text(), (file, function)
