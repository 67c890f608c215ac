"""One file of a folder of images is exchanged for any bytes: nothing but an ``ImageError`` may come of it, and soon."""

import time
from pathlib import Path

from pyuffd.criu import ImageError, Images
from pyuffd.criu.check import problems
from pyuffd.criu.columns import WORTHWHILE
from support.criu_images import PAGE, Imitated, Mapped, Saved, Written, write, write_shared

BASE = 0x7F0000000000
LIMIT = 2.0  # seconds
NAMES = (
    "inventory.img",
    "pstree.img",
    "core-7.img",
    "mm-7.img",
    "pagemap-7.img",
    "pagemap-shmem-3.img",
    "parent/inventory.img",
    "parent/pagemap-7.img",
)
_READ_AT_MOST = 64 * PAGE


def valid(folder: Path) -> Written:
    """Small images with everything in them, and mappings and entries enough for numpy."""
    many = [BASE + (100 + 4 * number) * PAGE for number in range(WORTHWHILE)]
    mapped = (
        Mapped(BASE, 32 * PAGE), Mapped(BASE + 32 * PAGE, 32 * PAGE), Mapped(BASE + 80 * PAGE, PAGE),
        *(Mapped(start, 2 * PAGE) for start in many),
    )  # fmt: skip
    of_first = [Saved(BASE, 4 * PAGE, "present"), *(Saved(start, PAGE, "present") for start in many)]
    first = write(folder / "first", [Imitated(7, mapped=mapped, saved=of_first)])
    saved = [
        Saved(BASE, 3 * PAGE, "lazy parent"),
        Saved(BASE + 4 * PAGE, 5 * PAGE),
        Saved(BASE + 9 * PAGE, PAGE, "present"),
        Saved(BASE + 20 * PAGE, 7 * PAGE, block=3),
        Saved(BASE + 30 * PAGE, 4 * PAGE, aligned=True),
    ]
    tasks = [Imitated(7, mapped=mapped, saved=saved, threads=(9,)), Imitated(8, 7, "zombie")]
    written = write(folder / "second", tasks, parent=first, version=3)
    write_shared(written, 3, 2 * PAGE, 5)
    return written


def survives(folder: Path, name: str, data: bytes) -> bool:
    """Parse the images with other bytes in this file, and return whether they were taken."""
    path = folder / name
    before = path.read_bytes()
    path.write_bytes(data)
    begin = time.perf_counter()
    try:
        return _parsed(folder)
    finally:
        took = time.perf_counter() - begin
        path.write_bytes(before)
        assert took < LIMIT, f"{name} took {took:.1f} s"


def _parsed(folder: Path) -> bool:
    found, told = problems(folder), ""
    try:
        images = Images(folder)
        for task in images.tasks.values():
            _look(images, task.pid)
    except ImageError as error:
        told = str(error)
    assert "\n" not in told
    assert found or not told, f"the check does not tell that {told}"
    return not told


def _look(images: Images, pid: int) -> None:
    task = images.tasks[pid]
    assert isinstance(task.comm, str)
    assert len(task.vmas) >= task.regions
    before = 0
    for one in task.lazy:
        assert before <= one.start < one.start + one.length
        before = one.start + one.length
        if one.how != "remote":
            length = min(one.length, _READ_AT_MOST)
            assert len(task.read(one.start, length)) == length
