"""The static programs that make the experiments, built from this tree."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ._missing import require_compiler

_ROOT = Path(__file__).resolve().parents[2]
_REPRODUCER = Path(__file__).with_name("unregister-lost-wake.c")


@dataclass(frozen=True)
class Programs:
    """Where they are.

    Attributes:
        laboratory: Makes all experiments; given the reproducer and the parts that it is to make.
        reproducer: Of the lost wake-ups of UFFDIO_UNREGISTER; the laboratory runs it.
    """

    laboratory: Path
    reproducer: Path


def build_programs(cache: Path) -> Programs:
    """Build them in the cache; quick when nothing changed since."""
    require_compiler()
    # CMake's build tree belongs to one checkout.
    build = cache / f"program-{hashlib.sha256(str(_ROOT).encode()).hexdigest()[:12]}"
    configure = ["cmake", "-S", str(_ROOT), "-B", str(build), "-G", "Ninja", "-DPYUFFD_PYTHON=OFF"]
    subprocess.run([*configure, "-DPYUFFD_LABORATORY=ON"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["cmake", "--build", str(build), "--target", "uffd_laboratory"], check=True, stdout=subprocess.DEVNULL
    )
    programs = Programs(build / "uffd_laboratory", build / _REPRODUCER.stem)
    compiler = ["gcc", "-O2", "-pthread", "-static", str(_REPRODUCER), "-o", str(programs.reproducer)]
    subprocess.run(compiler, check=True)
    return programs
