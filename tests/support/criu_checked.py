"""Images of one task, and a look at all their bytes."""

from pathlib import Path

from pyuffd.criu import Images
from support.criu_images import Imitated, Mapped, Saved, Written, write

BASE = 0x7F0000000000


def one_task(folder: Path, *saved: Saved, mapped: tuple[Mapped, ...] = (), version: int = 2) -> Written:
    mapped = mapped or (Mapped(BASE, 16 << 20),)
    return write(folder, [Imitated(7, mapped=mapped, saved=saved)], version=version)


def check_bytes(written: Written, images: Images) -> int:
    """Read every range in the way that it says, and return how many bytes were compared."""
    compared = 0
    for task in images.tasks.values():
        for found in task.lazy:
            data = task.read(found.start, found.length)
            if found.how == "file":
                with Path(found.file).open("rb") as file:
                    file.seek(found.offset)
                    data = file.read(found.length)
            assert data == written.memory(task.pid, found.start, found.length), found
            compared += len(data)
    return compared
