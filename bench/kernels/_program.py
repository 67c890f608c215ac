"""The static program that runs the experiments, built from this tree."""

import subprocess
from pathlib import Path

from ._missing import require_compiler

_ROOT = Path(__file__).resolve().parents[2]


def build_program(cache: Path) -> Path:
    """Build it in the cache; quick when nothing changed since."""
    require_compiler()
    build = cache / "program"
    configure = ["cmake", "-S", str(_ROOT), "-B", str(build), "-G", "Ninja", "-DPYUFFD_PYTHON=OFF"]
    subprocess.run([*configure, "-DPYUFFD_LABORATORY=ON"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["cmake", "--build", str(build), "--target", "uffd_laboratory"], check=True, stdout=subprocess.DEVNULL
    )
    return build / "uffd_laboratory"
