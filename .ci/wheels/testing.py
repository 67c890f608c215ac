"""A wheel where its users have it: in an environment without a compiler, outside the tree."""

import os
import shutil
from pathlib import Path

from wheels.building import ROOT
from wheels.interpreters import Interpreter
from wheels.running import run

# The main promises, and the errors of both extension modules, each of which may have a C++ runtime of its own.
_TESTS = ("tests/test_minimal.py", "tests/test_workload.py")
_PACKAGES = ("pytest>=8", "pytest-timeout>=2.3.1")
_KEPT = ("HOME", "LANG", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "PYUFFD_REQUIRE")


def test(wheel: Path, interpreter: Interpreter, folder: Path) -> str:
    """Install a wheel, and run the tests of wheels; what they print last.

    Raises:
        WheelError: They fail.
    """
    home = folder / interpreter.name
    run([interpreter.path, "-m", "venv", home / "venv"], os.environ, "a virtual environment")
    python = home / "venv" / "bin" / "python"
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment = kept | {"PATH": str(python.parent), "CC": "no-compiler", "CXX": "no-compiler"}
    install = [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", wheel, *_PACKAGES]
    run(install, environment, f"installing {wheel.name}")
    shutil.copytree(ROOT / "tests", home / "tests", ignore=shutil.ignore_patterns("native", "__pycache__"))
    command = [python, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", home, "--import-mode=importlib"]
    said = run([*command, "-p", "no:cacheprovider", *_TESTS], environment, f"the tests of {wheel.name}", cwd=home)
    return said.splitlines()[-1]
