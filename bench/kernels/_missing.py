"""What this machine lacks for the laboratory."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")
EMULATOR = "qemu-system-x86_64"

# Debian's packages, by what each is needed for.
_PROGRAMS = {
    EMULATOR: "qemu-system-x86",
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
}
_FILES = {SOURCE: "linux-source-6.12", Path("/usr/include/libelf.h"): "libelf-dev"}


class Unavailable(Exception):  # noqa: N818  # a sentence for the user, not a fault of the program
    """Something is missing; the message says what, and what still works without it."""


def require_kernel_tools() -> None:
    """Check that kernels can be built and booted.

    Raises:
        Unavailable: Names the packages to install.
    """
    packages = sorted({*_missing_programs(), *(package for path, package in _FILES.items() if not path.exists())})
    if packages:
        raise Unavailable(
            f"the laboratory's kernels need {_listed(packages)}: install with "
            f"'apt-get install {' '.join(packages)}' (Debian 12, as root); "
            "without them 'python -m bench.kernels --only host' runs the same experiments on this kernel"
        )


def require_compiler() -> None:
    """Check that the laboratory's program can be built.

    Raises:
        Unavailable: Names what to install.
    """
    for program, remedy in (
        ("g++", "apt-get install g++"),
        ("cmake", "pip install cmake"),
        ("ninja", "pip install ninja"),
    ):
        if shutil.which(program) is None:
            raise Unavailable(
                f"the laboratory's program cannot be built without {program}: install it with '{remedy}'; "
                "without it 'pyuffd probe' still tells this kernel's release generation"
            )


def _missing_programs() -> Iterator[str]:
    return (package for program, package in _PROGRAMS.items() if shutil.which(program) is None)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
