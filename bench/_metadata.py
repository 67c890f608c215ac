"""What every benchmark's metadata says beside what pyperf collects."""

import mmap
import subprocess
from pathlib import Path

import pyperf

import pyuffd
from pyuffd import _core

Metadata = dict[str, str | int | float]

# Names and paths of the machine, not of the measurement.
_PRIVATE = ("hostname", "python_config_args", "python_executable")


def collect() -> Metadata:
    """Collect what holds for all benchmarks of a process."""
    run = pyperf.Run([1.0])
    collected = {key: value for key, value in run.get_metadata().items() if key not in _PRIVATE}
    return collected | _system() | _build()


def _system() -> Metadata:
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


def _build() -> Metadata:
    return {
        "pyuffd_version": pyuffd.__version__,
        "pyuffd_build_type": _core.build_type,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    """Of the tree that this file is in; it says whether that was changed since."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
