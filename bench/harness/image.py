"""Captures the memory of a real running program, as a snapshot or a checkpoint of it would have it.

Starts a Python program that has imported numpy and matplotlib and holds computed data, stops it, and copies every
private anonymous VMA of it: an image, its layout, and a checksum of each page.
"""

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pyuffd import _workload

from .axes import PAGE
from .layout import FOLDER

_PROGRAM = Path(__file__).resolve().with_name("captured_program.py")
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Area:
    """One VMA: where it was, and where its bytes are in the image."""

    address: int
    length: int
    perms: str
    offset: int


@dataclass(frozen=True)
class Image:
    """A captured image in a folder."""

    path: Path
    areas: Sequence[Area]
    checksums: npt.NDArray[np.uint64]

    @classmethod
    def load(cls, folder: Path) -> "Image":
        """Open what ``capture()`` wrote."""
        layout = json.loads((folder / "layout.json").read_text())
        areas = [Area(**area) for area in layout["areas"]]
        return cls(folder / "image.bin", areas, np.load(folder / "checksums.npy"))

    @property
    def total(self) -> int:
        """Bytes of all areas."""
        return sum(area.length for area in self.areas)


def capture(folder: Path) -> Image:
    """Start the program, capture it, and end it.

    Args:
        folder: Where ``image.bin``, ``layout.json`` and ``checksums.npy`` go.

    Returns:
        What was captured.

    Raises:
        PermissionError: This user may not trace it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _stopped_program() as pid, (folder / "image.bin").open("wb") as image:
        areas = _private_anonymous(pid)
        digest = _copy(pid, areas, image)
    layout = {
        "program": _PROGRAM.name,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernel": platform.release(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "total": sum(area.length for area in areas),
        "sha256": digest,
        "areas": [vars(area) for area in areas],
    }
    (folder / "layout.json").write_text(json.dumps(layout, indent=1) + "\n")
    mapped = np.memmap(folder / "image.bin", np.uint8, mode="r")
    np.save(folder / "checksums.npy", _workload.checksums_of(mapped.data, PAGE))
    return Image.load(folder)


def image_in(folder: Path) -> Image:
    """Load the image of a folder of results, which ``capture_in()`` has made."""
    return Image.load(folder / FOLDER)


def capture_in(folder: Path) -> Image:
    """Capture an image for a folder of results, unless it has one."""
    if not (folder / FOLDER / "checksums.npy").exists():
        return capture(folder / FOLDER)
    return image_in(folder)


def drop_in(folder: Path) -> None:
    """Remove the image, which is large; its layout stays."""
    (folder / FOLDER / "image.bin").unlink(missing_ok=True)
    (folder / FOLDER / "checksums.npy").unlink(missing_ok=True)


@contextmanager
def _stopped_program() -> Iterator[int]:
    """Have the program stopped, all its threads, when its data is computed."""
    program = subprocess.Popen([sys.executable, str(_PROGRAM)], stdout=subprocess.PIPE, text=True)
    try:
        if program.stdout is None or program.stdout.readline() != "ready\n":
            raise RuntimeError(f"{_PROGRAM.name} failed before its data was computed")
        program.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.pid, os.WSTOPPED)
        yield program.pid
    finally:
        program.kill()
        program.communicate()


def _private_anonymous(pid: int) -> list[Area]:
    """Its readable private VMAs that no file stands behind; the kernel's own ([vdso], [vvar]) are not memory of it."""
    areas: list[Area] = []
    offset = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, perms, _, _, inode, *name = line.split(maxsplit=5)
        if inode != "0" or not perms.startswith("r") or not perms.endswith("p") or not _is_memory(name):
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        areas.append(Area(start, end - start, perms, offset))
        offset += end - start
    return areas


def _is_memory(name: Sequence[str]) -> bool:
    return not name or name[0] in ("[heap]", "[stack]") or name[0].startswith("[anon:")


def _copy(pid: int, areas: Sequence[Area], image: BinaryIO) -> str:
    """Write the areas' bytes one after another; returns their SHA-256."""
    digest = hashlib.sha256()
    with _memory_of(pid) as memory:
        for area in areas:
            memory.seek(area.address)
            for start in range(0, area.length, _CHUNK):
                piece = memory.read(min(_CHUNK, area.length - start))
                image.write(piece)
                digest.update(piece)
    if image.tell() != sum(area.length for area in areas):
        raise RuntimeError("the program's memory could not be read in full")
    return digest.hexdigest()


def _memory_of(pid: int) -> BinaryIO:
    try:
        return Path(f"/proc/{pid}/mem").open("rb", buffering=0)
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"the memory of process {pid} may not be read: this needs ptrace permission; set the sysctl "
            "kernel.yama.ptrace_scope to 1 or lower, or run as root or with CAP_SYS_PTRACE",
        ) from None
