"""What this machine lacks for the laboratory."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

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
    "patch": "patch",
}
_LIBELF = Path("/usr/include/libelf.h")
_SOURCES = Path("/usr/src")


class Unavailable(Exception):  # noqa: N818  # a sentence for the user, not a fault of the program
    """Something is missing; the message says what, and what still works without it."""


def source_of(series: str) -> Path:
    """Where Debian's package has the source of a kernel series."""
    return _SOURCES / f"linux-source-{series}.tar.xz"


def require_kernel_tools(series: Iterable[str]) -> None:
    """Check that kernels of these series can be built and booted.

    Raises:
        Unavailable: Names the packages to install.
    """
    files = {source_of(name): f"linux-source-{name}" for name in series} | {_LIBELF: "libelf-dev"}
    packages = sorted({*_missing_programs(), *(package for path, package in files.items() if not path.exists())})
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
