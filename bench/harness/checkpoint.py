"""The images of tasks, in CRIU's format, as far as a lazy restore reads them."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyuffd.criu import schema

from .axes import PAGE
from .memory import Range

_CUT = 1 << 20  # CRIU's longest entry
_READ_WRITE, _PRIVATE_ANONYMOUS, _REGULAR = 3, 0x22, 1


@dataclass(frozen=True)
class CheckpointTask:
    """A task, all of whose memory is lazy.

    Attributes:
        pid: As the images have it.
        ranges: Its mappings, sorted.
        flags: Of the pagemap entries.
    """

    pid: int
    ranges: Sequence[Range]
    flags: int = schema.PE_LAZY | schema.PE_PRESENT


def write_images(folder: Path, tasks: Sequence[CheckpointTask]) -> None:
    """Write all images but the pages files: task i of them, from 1 on, has ``pages-i.img``."""
    folder.mkdir(exist_ok=True)
    # CRIU takes an inventory without fdinfo_per_id for one of long ago.
    inventory = _message("inventory_entry", img_version=2, fdinfo_per_id=True)
    (folder / "inventory.img").write_bytes(_image(schema.INVENTORY_MAGIC, [inventory])[4:])
    first = tasks[0].pid
    tree = [
        _message("pstree_entry", pid=task.pid, ppid=0 if task.pid == first else first, pgid=first, sid=first,
                 threads=[task.pid])
        for task in tasks
    ]  # fmt: skip
    (folder / "pstree.img").write_bytes(_image(schema.PSTREE_MAGIC, tree))
    for number, task in enumerate(tasks, 1):
        vmas = [
            _message("vma_entry", start=start, end=start + length, prot=_READ_WRITE, flags=_PRIVATE_ANONYMOUS,
                     status=_REGULAR | schema.VMA_ANON_PRIVATE, fd=-1)
            for start, length in task.ranges
        ]  # fmt: skip
        mm = _message("mm_entry", mm_saved_auxv=[6, PAGE], vmas=vmas)
        (folder / f"mm-{task.pid}.img").write_bytes(_image(schema.MM_MAGIC, [mm]))
        entries = [_message("pagemap_head", pages_id=number), *_entries(task)]
        (folder / f"pagemap-{task.pid}.img").write_bytes(_image(schema.PAGEMAP_MAGIC, entries))


def _entries(task: CheckpointTask) -> Iterator[Any]:
    for start, length in task.ranges:
        for at in range(start, start + length, _CUT):
            pages = min(_CUT, start + length - at) // PAGE
            yield _message("pagemap_entry", vaddr=at, compat_nr_pages=0, flags=task.flags, nr_pages=pages)


def _message(kind: str, **fields: Any) -> Any:
    """Make a message. Fields that must have a value, and were given none, are zeros."""
    made = schema.MESSAGES[kind]()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    for name in made.FindInitializationErrors():
        setattr(made, name, 0)
    return made


def _image(magic: int, messages: Sequence[Any]) -> bytes:
    parts = [message.SerializeToString() for message in messages]
    head = struct.pack("<II", schema.COMMON_MAGIC, magic)
    return head + b"".join(struct.pack("<I", len(part)) + part for part in parts)
