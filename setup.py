"""Builds the extension modules with CMake; all metadata but the readme stands in pyproject.toml."""

import atexit
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
GUARD = "pyuffd-guard"  # the program that acts when a manager dies


class CMakeBuild(build_ext):
    """One CMake build makes every extension module of the package, and its guard."""

    def build_extensions(self) -> None:
        """Configure afresh, since a cache may name the tools of an earlier isolated build."""
        output = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent
        build = Path(self.build_temp).resolve()
        configure = [
            "cmake", "--fresh", "-G", "Ninja", "-S", str(ROOT), "-B", str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DCMAKE_RUNTIME_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)

    def copy_extensions_to_source(self) -> None:
        """Copy the guard, too, for an editable install."""
        super().copy_extensions_to_source()
        in_place = ROOT / "pyuffd" / GUARD
        in_place.unlink(missing_ok=True)  # it may be running
        shutil.copy2(Path(self.build_lib, "pyuffd", GUARD), in_place)


def readme() -> str:
    """Give README.md with absolute links: it is shown outside the repository, too."""
    place = "https://github.com/pyuffd/pyuffd"
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"(!\[[^]]*\])\((?!https?:)", rf"\1({place}/raw/main/", text)
    return re.sub(r"(?<=\])\((?!https?:|#)", f"({place}/blob/main/", text)


def places() -> dict[str, dict[str, str]]:
    """Tell where a build writes: not into the tree, but for an editable install, which goes on from its last build."""
    if "editable_wheel" in sys.argv:
        return {}
    folder = tempfile.mkdtemp(prefix="pyuffd-build-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"build": {"build_base": folder}, "egg_info": {"egg_base": folder}}


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    options=places(),
    ext_modules=[Extension("pyuffd._core", []), Extension("pyuffd._workload", [])],
    cmdclass={"build_ext": CMakeBuild},
)
