"""The CPythons that are installed here, and their headers for another machine."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wheels.running import WheelError, run

OLDEST, NEWEST = (3, 10), (3, 14)

_LOOK = """
import pathlib, platform, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include")) / "Python.h"
gil = not sysconfig.get_config_var("Py_GIL_DISABLED")
print(platform.python_implementation(), *sys.version_info[:2], header.exists(), gil)
"""


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


def _look_at(path: Path) -> tuple[str, Interpreter | None]:
    """Ask it; why it cannot build, or the interpreter."""
    try:
        done = subprocess.run([path, "-c", _LOOK], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "it cannot be run", None
    implementation, major, minor, has_header, has_gil = done.stdout.split()
    version = int(major), int(minor)
    if implementation != "CPython":
        return f"it is {implementation}, and wheels are made for CPython", None
    if version < OLDEST:
        return f"it is Python {major}.{minor}, and pyuffd needs 3.10", None
    if has_gil != "True":
        return "it is a free-threaded build, and wheels are made for CPython with the GIL", None
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
        path = folder / f"{machine}-linux-gnu" / name / "pyconfig.h"
        if path.exists():
            return path
    raise WheelError(
        f"no wheel of {interpreter.name} for {machine}: its pyconfig.h is not here. Debian has it in "
        f"lib{name}-dev:arm64: unpack that with dpkg -x FILE FOLDER, and give --headers FOLDER/usr/include"
    )


def foreign_headers(interpreter: Interpreter, pyconfig: Path, folder: Path) -> Path:
    """Copy the headers of this Python, with another machine's pyconfig.h."""
    command = [interpreter.path, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    own = run(command, os.environ, "asking for headers").strip()
    shutil.copytree(own, folder)
    shutil.copy(pyconfig, folder / "pyconfig.h")
    return folder
