"""Builds the extension modules with CMake; all metadata stands in pyproject.toml."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One CMake build makes every extension module of the package."""

    def build_extensions(self) -> None:
        """Configure afresh, since a cache may name the tools of an earlier isolated build."""
        output = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent
        build = Path(self.build_temp).resolve()
        configure = [
            "cmake", "--fresh", "-G", "Ninja", "-S", str(ROOT), "-B", str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(
    ext_modules=[Extension("pyuffd._core", []), Extension("pyuffd._workload", [])],
    cmdclass={"build_ext": CMakeBuild},
)
