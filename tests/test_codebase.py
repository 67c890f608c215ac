"""Static checks of the tree, as tests: rules that no compiler checks."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import pyuffd
from pyuffd import _core

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".pyi", ".cpp", ".hpp", ".toml", ".json", ".txt", ".md", ".sh", ".in", ".yml", ".yaml", ".cff", ""}
GENERATED = {
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}


def files() -> list[Path]:
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        generated = any(part in GENERATED or part.endswith(".egg-info") or part.startswith("results") for part in parts)
        if path.is_file() and not generated and path.suffix in SUFFIXES and path.name != "pyuffd-guard":
            found.append(path)
    return found


def tool(name: str) -> str:
    """The one beside this Python, else the one on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (pip install -e .[dev])")
    return found


def tracked() -> list[str]:
    """Every file of the repository; nothing where this is no repository."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def hooks() -> list[dict[str, Any]]:
    """The checks, which pre-commit runs, too."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    found: list[dict[str, Any]] = repository["hooks"]
    return found


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_checks_before_each_commit(hook: dict[str, Any]) -> None:
    name, *arguments = shlex.split(hook["entry"])
    names = [str(path.relative_to(ROOT)) for path in files()]
    given = [] if hook.get("pass_filenames") is False else [each for each in names if re.search(hook["files"], each)]
    done = subprocess.run([tool(name), *arguments, *given], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TOP = {
    "ARCHITECTURE.md", "CHANGELOG.md", "CITATION.cff", "CMakeLists.txt", "CMakePresets.json", "CONTRIBUTING.md",
    "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "pyproject.toml", "setup.py",
    "bench", "csrc", "docs", "examples", "pyuffd", "tests",
    ".ci", ".clang-format", ".github", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip


def test_nothing_lies_at_the_top_without_a_reason() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP


@pytest.mark.parametrize(("required", "failed"), [("0", 0), ("1", 1)])
def test_a_skip_fails_where_everything_is_required(tmp_path: Path, required: str, failed: int) -> None:
    for name in ("conftest.py", "ci_lacks.txt"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n"
        "def test_listed() -> None:\n    pytest.skip('no hugetlb pages can be reserved (sysctl vm.nr_hugepages)')\n"
        "def test_unlisted() -> None:\n    pytest.skip('no reason')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYUFFD_REQUIRE": required, "PYTHONPATH": str(Path(pyuffd.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{2 - failed} skipped" in done.stdout, done.stdout + done.stderr
    assert ("1 failed" in done.stdout) == bool(failed)


def test_the_version_is_one() -> None:
    assert _core.__version__ == pyuffd.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", pyuffd.__version__)
    assert f"\nversion: {pyuffd.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_no_file_names_a_place_of_this_machine() -> None:
    for path in files():
        text = path.read_text(errors="replace")
        assert str(ROOT) not in text, path
        assert str(Path.home()) + "/" not in text, path


@pytest.mark.parametrize("layer", ["csrc/engine", "csrc/guard", "csrc/workload"])
def test_no_python_below_the_bindings(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.?pp"):
        assert not re.search(r"#include\s*[<\"](pybind11|Python\.h|bindings/)", path.read_text()), path


LAYERS = ["linux", "guard", "probe", "source", "target", "ending", "serve"]
ROOMS_OF_SERVE = ["served", "fault", "event", "fill", "adoption", "inline", "end", "awake", "handler", "manager"]


def _place(path: str) -> tuple[int, int]:
    """Where a file of the engine stands among those that may include one another."""
    layer, room, *_ = [*path.split("/"), ""]
    return LAYERS.index(layer), ROOMS_OF_SERVE.index(room) if layer == "serve" else 0


def test_dependencies_go_one_way() -> None:
    """Nothing of the engine includes what stands behind it, nor the workload or the bindings."""
    engine = ROOT / "csrc" / "engine"
    for path in engine.rglob("*.?pp"):
        for included in re.findall(r'#include "(.*?)"', path.read_text()):
            assert included.startswith("engine/"), (path, included)
            own = _place(str(path.relative_to(engine)))
            assert _place(included.removeprefix("engine/")) <= own, (path, included)


def test_the_guard_is_built_without_the_engine() -> None:
    allowed = (
        r'"(guard/|engine/guard/(adoption_ledger|ledger_layout|protocol)\.hpp|'
        r"engine/linux/(fd|packet_socket|syscall|uapi|wake_everything)\.hpp)"
    )
    for path in (ROOT / "csrc" / "guard").iterdir():
        for included in re.findall(r'#include (".*?")', path.read_text()):
            assert re.match(allowed, included), (path, included)


def test_every_header_is_guarded_and_every_source_is_built() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for path in (ROOT / "csrc").rglob("*.hpp"):
        assert "#pragma once" in path.read_text(), path
    for path in [*(ROOT / "csrc").rglob("*.cpp"), *(ROOT / "tests" / "native").glob("*.cpp")]:
        assert str(path.relative_to(ROOT)) in cmake, path


def test_every_name_of_the_package_is_exported() -> None:
    public = {name for name in vars(pyuffd) if not name.startswith("_") and name != "annotations"}
    modules = {"criu", "daemon", "handoff"}  # as far as something has imported them
    assert public <= set(pyuffd.__all__) | modules
    for name in pyuffd.__all__:
        assert getattr(pyuffd, name) is not None


def test_the_stubs_name_what_the_modules_have() -> None:
    from pyuffd import _workload

    for module, stub in ((_core, "_core.pyi"), (_workload, "_workload.pyi")):
        text = (ROOT / "pyuffd" / stub).read_text()
        names = set(re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE))
        names |= set(re.findall(r"^(\w+): ", text, re.MULTILINE))
        names -= set(re.findall(r"^class (_\w+)\(TypedDict\)", text, re.MULTILINE))
        built = {name for name in dir(module) if not name.startswith("__")} | {"__version__"} & names
        assert {name for name in names if not name.startswith("_Counts")} <= built | {"_raise_system_error"}
        assert built - names == set(), module
