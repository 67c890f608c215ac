"""Every way to build and install works from a clean tree, with build isolation."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 800

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS + 50)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources alone, as a fresh clone has them."""
    tree = tmp_path_factory.mktemp("clone") / "pyuffd"
    ignored = shutil.ignore_patterns(
        "*.so", "build", "dist", "__pycache__", "*.egg-info", ".venv", ".git", "results", "results-*"
    )
    shutil.copytree(ROOT, tree, ignore=ignored)
    return tree


def make_venv(path: Path) -> Path:
    venv.create(path, with_pip=True)
    return path / "bin" / "python"


def files_of(tree: Path) -> set[Path]:
    return {path.relative_to(tree) for path in tree.rglob("*")}


MOST_MEGABYTES = 10


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of the tree."""
    folder = tmp_path_factory.mktemp("dist")
    before = files_of(tree)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, cwd=tree)
    assert files_of(tree) == before  # a build leaves nothing behind
    return next(folder.iterdir())


class Built(NamedTuple):
    """A wheel, and what was said while it was built and tested."""

    wheel: Path
    told: str


@pytest.fixture(scope="module")
def built(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel of that sdist. That ``pip install -e .`` works is how these tests come to run."""
    folder = tmp_path_factory.mktemp("wheel")
    run("tar", "-xf", sdist, cwd=folder)
    (source,) = folder.iterdir()
    before = files_of(source)
    script = source / ".ci" / "build_wheels.py"
    told = run(sys.executable, "-B", script, "--native", "--python", sys.executable, "--out", folder, cwd=folder)
    assert files_of(source) == before
    (wheel,) = folder.glob("*.whl")
    return Built(wheel, told)


def test_sdist(sdist: Path, tmp_path: Path) -> None:
    assert sdist.stat().st_size < MOST_MEGABYTES << 20
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"csrc/engine/serve/handler/handler.cpp", "bench/run", "tests/run", "CMakeLists.txt", "LICENSE"} <= names
    assert {"docs/conf.py", "docs/tutorial.md", "examples/lazy_array.py", ".ci/build_wheels.py", "SECURITY.md"} <= names
    assert not [name for name in names if name.endswith(".so")]
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, cwd=tmp_path)


def test_wheel_to_import(built: Built, tmp_path: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", built.wheel, cwd=tmp_path)
    check_readme(built.wheel)
    python = make_venv(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", built.wheel, cwd=tmp_path)
    listed = run(
        python, "-c", "import pyuffd, pathlib; print(*pathlib.Path(pyuffd.__file__).parent.iterdir())", cwd=tmp_path
    )
    for name in ("py.typed", "_core.pyi", "_core.", "_workload."):
        assert name in listed
    assert "release generation" in run(python, "-c", "import pyuffd; print(pyuffd.probe())", cwd=tmp_path)
    bench_of_wheel(python, built.wheel, tmp_path)


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as contents:
        (name,) = (name for name in contents.namelist() if name.endswith("METADATA"))
        return contents.read(name).decode()


def check_readme(wheel: Path) -> None:
    """The readme is shown outside the repository, where a relative link leads nowhere."""
    text = metadata(wheel)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) > 20
    assert [link for link in links if not link.startswith("https://")] == []
    assert re.search(r"!\[[^]]*\]\(https://github\.com/\S+/raw/main/docs/results/figures/ending\.svg\)", text)
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} == set(
        re.findall(r"^Project-URL: (\w+)", text, re.MULTILINE)
    )


def bench_of_wheel(python: Path, wheel: Path, folder: Path) -> None:
    """The benchmarks come with the wheel, and say what they need besides."""
    command = (python, "-m", "pyuffd", "bench")
    done = subprocess.run([*command, "--list"], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pyuffd bench: pyperf is missing: pip install 'pyuffd[bench]'\n")
    run(python, "-m", "pip", "install", "-q", f"pyuffd[bench] @ {wheel.as_uri()}", cwd=folder)
    assert "ending" in run(*command, "--list", cwd=folder)
    told = run(*command, "--only", "footprint", "--fast", "--out", "out", cwd=folder)
    assert "the report is out/report.html" in told
    assert "wheel" in (folder / "out" / "raw" / "footprint.jsonl").read_text()  # instead of a commit


def test_wheels_are_built_audited_and_tested(tree: Path, built: Built) -> None:
    """A wheel has all Python files of its packages, both extension modules, and the guard."""
    assert re.search(r"MB; \d+ passed", built.told)
    assert built.wheel.name.endswith(f"-manylinux_2_28_{platform.machine()}.whl")
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {str(path.relative_to(tree)) for path in (tree / "pyuffd").rglob("*.py*")}
    needs_checkout = {"kernels", "documents"}
    every = (path.relative_to(tree) for path in (tree / "bench").rglob("*.py"))
    benchmarks = {f"pyuffd/{path}" for path in every if path.parts[1] not in needs_checkout}
    assert {name for name in names if name.endswith((".py", ".pyi"))} == package | benchmarks
    assert {name.partition(".")[0] for name in names if name.endswith(".so")} == {"pyuffd/_core", "pyuffd/_workload"}
    assert {"pyuffd/py.typed", "pyuffd/pyuffd-guard"} <= names


def test_bare_tree_says_how_to_build(tree: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tree / "pyuffd", bare / "pyuffd", ignore=shutil.ignore_patterns("*.so"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import pyuffd"],  # no site: an editable install would lend its extension
        cwd=bare,
        env={**os.environ, "PYTHONPATH": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install ." in done.stderr


def test_the_lower_bounds_are_what_is_tested(built: Built) -> None:
    """.ci/test_lowest installs with .ci/lowest.txt the lower bound of everything that pyuffd[test] needs."""
    lines = [line for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines() if not line.startswith("#")]
    tested = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    bounds = {}
    requirements = re.findall(r"^Requires-Dist: (.*)$", metadata(built.wheel), re.MULTILINE)
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        needed = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("bench", "criu", "test"))
        if needed and requirement.name != "pyuffd":
            (bound,) = requirement.specifier
            assert bound.operator == ">="
            bounds[requirement.name] = Version(bound.version)
    assert tested == bounds
