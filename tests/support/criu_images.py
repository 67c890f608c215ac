"""An imitation of the images that CRIU 4.2 writes, of tasks that never lived, with random bytes in their pages.

It writes what a lazy restore reads: inventory, tree, core, mm, pagemaps and pages files. Pagemap entries are cut at
1 MiB as CRIU cuts them. A test lets CRIU's own tool read what it writes, where that is installed.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.random import default_rng

from pyuffd.criu import schema

PAGE = mmap.PAGESIZE
CUT = 1 << 20
READ_WRITE = 3
PRIVATE_ANONYMOUS = 0x22
REGULAR = 1
ALIVE = 1
DEAD = 6

Kind = Literal["lazy", "present", "parent", "lazy parent", "remote"]
_FLAGS: dict[Kind, int] = {
    "lazy": schema.PE_LAZY | schema.PE_PRESENT,
    "present": schema.PE_PRESENT,
    "parent": schema.PE_PARENT,
    "lazy parent": schema.PE_LAZY | schema.PE_PARENT,
    "remote": schema.PE_LAZY,
}


@dataclass(frozen=True)
class Mapped:
    """A mapping of a task."""

    start: int
    length: int
    flags: int = PRIVATE_ANONYMOUS
    status: int = REGULAR | schema.VMA_ANON_PRIVATE
    shmid: int = 0
    pgoff: int = 0


@dataclass(frozen=True)
class Saved:
    """Memory that has pagemap entries; ``block`` pages are compressed together, none are if it is 0."""

    start: int
    length: int
    kind: Kind = "lazy"
    block: int = 0
    aligned: bool = False


@dataclass(frozen=True)
class Imitated:
    """A task. It has no memory, as a zombie, if it has no mappings."""

    pid: int
    ppid: int = 0
    comm: str = "imitated"
    mapped: Sequence[Mapped] = ()
    saved: Sequence[Saved] = ()
    threads: Sequence[int] = ()


@dataclass
class Written:
    """A folder of images, and the bytes that the pages have."""

    path: Path
    pages: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def memory(self, pid: int, start: int, length: int) -> bytes:
        """The bytes that a task has there, of which all pages were saved."""
        return b"".join(self.pages[pid, at] for at in range(start, start + length, PAGE))


def message(kind: str, **fields: Any) -> Any:
    """A message of this kind, with the fields that CRIU requires as zeros."""
    required = {name: 0 for row in schema._TABLE[kind] for _, label, _, name in [row.split()] if label == "required"}
    made = schema.MESSAGES[kind]()
    for name, value in (required | fields).items():
        if isinstance(value, (list, tuple)):
            getattr(made, name).extend(value)
        elif hasattr(value, "SerializeToString"):
            getattr(made, name).CopyFrom(value)
        else:
            setattr(made, name, value)
    return made


def framed(*messages: Any) -> bytes:
    """Messages with their lengths, as they stand in an image; bytes are taken as they are."""
    parts = [one if isinstance(one, bytes) else one.SerializeToString() for one in messages]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def image(magic: int, *messages: Any, common: bool = True) -> bytes:
    """A whole image."""
    return struct.pack("<II", schema.COMMON_MAGIC, magic)[0 if common else 4 :] + framed(*messages)


def write(
    path: Path, tasks: Sequence[Imitated], *, parent: "Written | None" = None, version: int = 2, old: bool = False
) -> Written:
    """Write the images of some tasks; pages that a parent has are not written again.

    Args:
        path: The folder, which is made.
        tasks: The tasks.
        parent: The images that entries of the kind ``parent`` lead to.
        version: ``img_version`` of the inventory.
        old: Whether ``nr_pages`` is field 2, as before CRIU 4.2.
    """
    path.mkdir(parents=True, exist_ok=True)
    written = Written(path, dict(parent.pages) if parent else {})
    if parent:
        (path / "parent").symlink_to(parent.path, target_is_directory=True)
    inventory = message("inventory_entry", img_version=version)
    (path / "inventory.img").write_bytes(image(schema.INVENTORY_MAGIC, inventory, common=False))
    tree = [
        message("pstree_entry", pid=task.pid, ppid=task.ppid, pgid=tasks[0].pid, sid=tasks[0].pid,
                threads=[task.pid, *task.threads])
        for task in tasks
    ]  # fmt: skip
    (path / "pstree.img").write_bytes(image(schema.PSTREE_MAGIC, *tree))
    for number, task in enumerate(tasks, 1):
        _write_task(written, task, number, old)
    return written


def write_shared(written: Written, shmid: int, length: int, pages_id: int, *, old: bool = False) -> None:
    """Write the image of shared memory, whose addresses are offsets."""
    data = default_rng(shmid).bytes(length)
    entries = [entry(start, size, "present") for start, size in _cuts(0, length)]
    _age(entries if old else [])
    head = message("pagemap_head", pages_id=pages_id)
    name = f"pagemap-shmem-{shmid}.img"
    (written.path / name).write_bytes(image(schema.PAGEMAP_MAGIC, head, *entries))
    (written.path / f"pages-{pages_id}.img").write_bytes(data)


def entry(start: int, length: int, kind: Kind, **more: Any) -> Any:
    """A pagemap entry as CRIU 4.2 writes it."""
    fields = {"vaddr": start, "compat_nr_pages": 0, "flags": _FLAGS[kind], "nr_pages": length // PAGE}
    return message("pagemap_entry", **fields | more)


def mm(mapped: Sequence[Mapped]) -> Any:
    """An mm image's message."""
    vmas = [
        message("vma_entry", start=one.start, end=one.start + one.length, pgoff=one.pgoff, shmid=one.shmid,
                prot=READ_WRITE, flags=one.flags, status=one.status, fd=-1)
        for one in mapped
    ]  # fmt: skip
    return message("mm_entry", mm_saved_auxv=[33, 0x7FFF00000000, 6, PAGE], vmas=vmas)


def _write_task(written: Written, task: Imitated, number: int, old: bool) -> None:
    state = ALIVE if task.mapped else DEAD
    core = message("core_entry", mtype=1, tc=message("task_core_entry", task_state=state, comm=task.comm.encode()))
    (written.path / f"core-{task.pid}.img").write_bytes(image(schema.CORE_MAGIC, core))
    if not task.mapped:
        return
    (written.path / f"mm-{task.pid}.img").write_bytes(image(schema.MM_MAGIC, mm(task.mapped)))
    rng = default_rng([task.pid, len(written.pages)])
    pages, entries = bytearray(), []
    for saved in task.saved:
        for start, length in _cuts(saved.start, saved.length):
            entries.append(_write_entry(written, task.pid, saved, start, length, pages, rng))
    _age(entries if old else [])
    head = message("pagemap_head", pages_id=number)
    (written.path / f"pagemap-{task.pid}.img").write_bytes(image(schema.PAGEMAP_MAGIC, head, *entries))
    (written.path / f"pages-{number}.img").write_bytes(bytes(pages))


def _age(entries: Sequence[Any]) -> None:
    """Make entries those of a CRIU before 4.2."""
    for one in entries:
        one.compat_nr_pages = one.nr_pages
        one.ClearField("nr_pages")


def _cuts(start: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + length, CUT):
        yield at, min(CUT, start + length - at)


def _write_entry(written: Written, pid: int, saved: Saved, start: int, length: int, pages: bytearray, rng: Any) -> Any:
    if not _FLAGS[saved.kind] & schema.PE_PRESENT:
        return entry(start, length, saved.kind)
    flags = _FLAGS[saved.kind]
    if saved.aligned:
        flags |= schema.PE_PAYLOAD_ALIGNED
        pages += bytes(-len(pages) % PAGE)
    data = rng.bytes(length) if not saved.block else _compressible(length, rng)
    for at in range(0, length, PAGE):
        written.pages[pid, start + at] = data[at : at + PAGE]
    if not saved.block:
        pages += data
        return entry(start, length, saved.kind, flags=flags)
    stored = [_stored(data[at : at + saved.block * PAGE]) for at in range(0, length, saved.block * PAGE)]
    pages += b"".join(stored)
    sizes = [len(one) for one in stored]
    blocks = message("pagemap_blocks", block_sizes=sizes, total_payload_size=sum(sizes), pages_per_block=saved.block)
    return entry(start, length, saved.kind, flags=flags, blocks=blocks)


def _compressible(length: int, rng: Any) -> bytes:
    """Pages of zeros, of noise, and of few different bytes, in turn."""
    kinds = [bytes(PAGE), None, b"pyuffd" * PAGE]
    pages = [kinds[number % 3] or rng.bytes(PAGE) for number in range(length // PAGE)]
    return b"".join(page[:PAGE] for page in pages)


def _stored(data: bytes) -> bytes:
    """A block as criu/compression.c stores it: nothing, LZ4, or as it is."""
    from lz4 import block

    if not any(data):
        return b""
    packed: bytes = block.compress(data, store_size=False)
    return packed if len(packed) < len(data) * 7 // 8 else data
