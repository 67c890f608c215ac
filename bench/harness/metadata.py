"""What is told of the process that measured: the machine, the kernel, the build."""

import mmap
import subprocess
from pathlib import Path

import pyperf

import pyuffd
from pyuffd import _core

# Names and paths of the machine, not of the measurement.
_PRIVATE = ("hostname", "python_config_args", "python_executable")


def collect() -> dict[str, str | int | float]:
    """Collect what holds for all that this process measures."""
    run = pyperf.Run([1.0])
    collected: dict[str, str | int | float] = {
        key: value for key, value in run.get_metadata().items() if key not in _PRIVATE
    }
    return collected | _system() | _build()


def _system() -> dict[str, str | int | float]:
    probe = pyuffd.probe()
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "kernel": probe.kernel,
        "release_generation": probe.release_generation,
        "page_size": mmap.PAGESIZE,
        "transparent_hugepage": thp.read_text().strip() if thp.exists() else "none",
        "unprivileged_userfaultfd": probe.unprivileged_userfaultfd,
        "uffd_features": hex(probe.features),
    }


def _build() -> dict[str, str | int | float]:
    return {
        "pyuffd_version": pyuffd.__version__,
        "pyuffd_build_type": _core.build_type,
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """Of the checkout that this file is in, which says whether it was changed since; of a wheel, its version."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists():
        return f"wheel {pyuffd.__version__}"
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
