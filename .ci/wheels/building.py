"""From the tree to a wheel that auditwheel has looked at."""

import ast
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from wheels.interpreters import Interpreter
from wheels.running import WheelError, run
from wheels.toolchain import GLIBC, Toolchain

ROOT = Path(__file__).resolve().parents[2]


def build(interpreter: Interpreter, toolchain: Toolchain, out: Path) -> Path:
    """Make a wheel for this machine, and put it there. A build leaves nothing in the tree."""
    return _pip_wheel(interpreter.path, toolchain.environment(), out)


def build_foreign(interpreter: Interpreter, toolchain: Toolchain, headers: Path, folder: Path, out: Path) -> Path:
    """Make a wheel for the machine of these headers.

    What the build needs is installed before: pip would look for it for the other machine.
    """
    run([interpreter.path, "-m", "venv", folder], os.environ, "a virtual environment")
    python = folder / "bin" / "python"
    run([python, "-m", "pip", "install", "-q", *_build_requirements()], os.environ, "installing what builds")
    number, machine = interpreter.name.removeprefix("cp"), toolchain.machine
    environment = toolchain.environment(
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={machine}",
        f"-DPython_INCLUDE_DIR={headers}",
        f"-DPYTHON_MODULE_EXTENSION=.cpython-{number}-{machine}-linux-gnu.so",
        "-DPYTHON_MODULE_DEBUG_POSTFIX=",
    )
    environment |= {"_PYTHON_HOST_PLATFORM": f"linux-{machine}", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return _pip_wheel(python, environment, out, "--no-build-isolation")


def _build_requirements() -> list[str]:
    found = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    if found is None:
        raise WheelError("pyproject.toml: the build system's requires stand in one line, but no such line is there")
    requirements: list[str] = ast.literal_eval(found[1])
    return requirements


def _pip_wheel(python: Path, environment: Mapping[str, str], out: Path, *options: str) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", folder, ROOT]
        run(command, environment, f"the build with {python}")
        (wheel,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, out / wheel.name))


def audit(wheel: Path, tools: Path, out: Path) -> Path:
    """Have auditwheel look at a wheel, and give it its tag; the wheel with that.

    Raises:
        WheelError: It needs more than glibc 2.28.
    """
    machine = wheel.stem.partition("linux_")[2]
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
    environment = os.environ | {"PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    if machine == platform.machine():
        command = [tools / "bin" / "auditwheel", "repair", "--plat", tag, "--only-plat", "-w", out, wheel]
        run(command, environment, f"auditwheel of {wheel.name}")
    else:
        _audit_foreign(wheel, tools, out, tag, environment)
    return out / wheel.name.replace(f"linux_{machine}", tag)


def _audit_foreign(wheel: Path, tools: Path, out: Path, tag: str, environment: Mapping[str, str]) -> None:
    """The same for another machine: auditwheel knows its tags by name there alone, and finds the oldest that fits."""
    with tempfile.TemporaryDirectory() as folder:
        command = [tools / "bin" / "auditwheel", "repair", "--plat", "auto", "--only-plat", "-w", folder, wheel]
        run(command, environment, f"auditwheel of {wheel.name}")
        (found,) = Path(folder).glob("*.whl")
        needed = re.search(r"-manylinux_2_(\d+)_\w+\.whl$", found.name)
        if needed is None or int(needed[1]) > int(GLIBC.partition(".")[2]):
            raise WheelError(f"{found.name} needs a newer glibc than {GLIBC}")
        retag = [tools / "bin" / "python", "-m", "wheel", "tags", "--remove", "--platform-tag", tag, found]
        run(retag, environment, f"the tag of {found.name}")
        (tagged,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(tagged, out / tagged.name)
