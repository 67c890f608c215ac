"""Damages of images of CRIU, and what is told of each."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyuffd.criu import schema
from support.criu_images import CUT, PAGE, Imitated, Mapped, Saved, entry, image, message, mm, write

BASE = 0x7F0000000000
MAPPED = (Mapped(BASE, CUT), Mapped(BASE + CUT, CUT))
HEAD = message("pagemap_head", pages_id=1)
FITS = [entry(BASE, CUT, "lazy"), entry(BASE + CUT, 2 * PAGE, "present")]

Damage = Callable[[Path], object]


def whole(folder: Path) -> Path:
    """A task with lazy and eager pages, and its parent's images; and a zombie."""
    saved = [Saved(BASE, CUT), Saved(BASE + CUT, 2 * PAGE, "present")]
    first = write(folder / "first", [Imitated(7, mapped=MAPPED, saved=[Saved(BASE, 2 * CUT, "present")])])
    tasks = [Imitated(7, mapped=MAPPED, saved=saved), Imitated(8, 7)]
    return write(folder / "second", tasks, parent=first, version=3).path


def pagemap(*messages: Any) -> Damage:
    """Other entries."""
    return lambda folder: (folder / "pagemap-7.img").write_bytes(image(schema.PAGEMAP_MAGIC, HEAD, *messages))


def vmas(*mapped: Mapped) -> Damage:
    """Other mappings."""
    return lambda folder: (folder / "mm-7.img").write_bytes(image(schema.MM_MAGIC, mm(mapped)))


def tree(*messages: Any) -> Damage:
    """Other tasks."""
    return lambda folder: (folder / "pstree.img").write_bytes(image(schema.PSTREE_MAGIC, *messages))


def cut(name: str, to: int) -> Damage:
    """A file that ends too early; from its end if the number is negative."""

    def damage(folder: Path) -> None:
        os.truncate(folder / name, to if to >= 0 else (folder / name).stat().st_size + to)

    return damage


def put(name: str, at: int, data: bytes) -> Damage:
    """Other bytes at an offset, from the end if that is negative."""

    def damage(folder: Path) -> None:
        found = bytearray((folder / name).read_bytes())
        at_ = at if at >= 0 else len(found) + at
        found[at_ : at_ + len(data)] = data
        (folder / name).write_bytes(found)

    return damage


def grown(name: str) -> Damage:
    """A file with one byte more."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size + 1)


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def link(name: str, to: str) -> Damage:
    """A symbolic link in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return damage


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def blocks(per_block: int = 1, sizes: tuple[int, ...] = (PAGE,) * 256, total: int = CUT, **more: Any) -> Damage:
    """One compressed entry of 256 pages."""
    found = message("pagemap_blocks", block_sizes=sizes, total_payload_size=total, pages_per_block=per_block)
    return pagemap(entry(BASE, CUT, "lazy", blocks=found, **more))


def twice(field: bytes) -> bytes:
    """A valid entry with further fields."""
    return bytes(entry(BASE, CUT, "lazy").SerializeToString()) + field


def kin(pid: int) -> Any:
    return message("pstree_entry", pid=pid, pgid=7, sid=7)


TOO_HIGH = 1 << 57
PARENT = entry(BASE, CUT, "lazy parent")
U32 = struct.Struct("<I").pack

DAMAGES: dict[str, tuple[Damage, str]] = {
    "no inventory": (gone("inventory.img"), r"inventory.img: the file is missing"),
    "inventory of another kind": (put("inventory.img", 0, b"ELF!"), r"inventory.img: its magic number 1 is 0x21464c45"),
    "empty inventory": (cut("inventory.img", 0), r"inventory.img: the file ends within its magic numbers, after 0"),
    "inventory without a message": (cut("inventory.img", 4), r"inventory.img: it has 0 messages"),
    "version": (put("inventory.img", -1, b"\x09"), r"inventory.img: img_version is 9, and pyuffd knows 1 to 3"),
    "no tree": (gone("pstree.img"), r"pstree.img: the file is missing"),
    "a field missing": (tree(b"\x08\x07"), r"pstree.img: message 0 at byte 12 is no pstree_entry: ppid is missing"),
    "no address": (pagemap(b"\x10\x01"), r"pagemap-7.img: message 1 at .* is no pagemap_entry: vaddr is missing"),
    "a pid twice": (tree(kin(7), kin(7)), r"pstree.img: entry 1: pid 7 is there twice"),
    "no pid": (tree(kin(7), kin(0)), r"pstree.img: entry 1: pid is 0"),
    "absurd pid": (tree(kin(1 << 31)), r"pstree.img: entry 0: pid is 2147483648"),
    "tree of noise": (tree(b"\xff\xff"), r"pstree.img: message 0 at byte 12 is no pstree_entry"),
    "mm without a message": (cut("mm-7.img", 8), r"mm-7.img: it has 0 messages"),
    "truncated mm": (cut("mm-7.img", -3), r"mm-7.img: message 0 at byte 8 has a length of \d+ bytes, and \d+ are left"),
    "length beyond the file": (put("mm-7.img", 8, U32((1 << 32) - 1)), r"mm-7.img: .* a length of 4294967295 bytes"),
    "mm of another kind": (put("mm-7.img", 4, U32(schema.CORE_MAGIC)), r"mm-7.img: its magic number 2 is 0x55053847"),
    "overlapping mappings": (
        vmas(MAPPED[0], Mapped(BASE + PAGE, CUT)),
        r"mm-7.img: vmas\[1\]: 0x7f0000001000 to 0x7f0000101000 overlaps the one before it",
    ),
    "unsorted mappings": (vmas(MAPPED[1], MAPPED[0]), r"mm-7.img: vmas\[1\]: 0x7f0000000000 .* lies before it"),
    "backward mapping": (vmas(Mapped(BASE, -PAGE)), r"mm-7.img: vmas\[0\]: .* is empty or backwards"),
    "unaligned mapping": (vmas(Mapped(BASE + 1, CUT)), r"mm-7.img: vmas\[0\]: 0x7f0000000001 .* is not aligned"),
    "mapping above": (vmas(*MAPPED, Mapped(TOO_HIGH, PAGE)), r"mm-7.img: vmas\[2\]: .* lies above 0x100000000000000"),
    "mapping far above": (vmas(*MAPPED, Mapped((1 << 64) - 2 * PAGE, PAGE)), r"mm-7.img: vmas\[2\]: .* lies above"),
    "no mappings": (vmas(), r"pagemap-7.img: the lazy page at 0x7f0000000000 lies outside all VMAs of mm-7.img"),
    "lazy page outside": (
        vmas(Mapped(BASE, 5 * PAGE), Mapped(BASE + 6 * PAGE, 2 * CUT)),
        r"pagemap-7.img: the lazy page at 0x7f0000005000 lies outside all VMAs of mm-7.img",
    ),
    "a mapping's flags": (
        lambda folder: (folder / "mm-7.img").write_bytes(
            (folder / "mm-7.img").read_bytes().replace(b"\x30\x22\x38\x81\x04\x40\x01", b"\x30\x22\x38\x81\x04\x7f\x01")
        ),
        r"mm-7.img: vmas\[0\] is no vma_entry",
    ),
    "no pagemap": (gone("pagemap-7.img"), r"pagemap-7.img: the file is missing"),
    "pagemap without a head": (cut("pagemap-7.img", 8), r"pagemap-7.img: its first message, pagemap_head, is missing"),
    "truncated pagemap": (cut("pagemap-7.img", -2), r"pagemap-7.img: message 2 at byte \d+ has a length of \d+ bytes"),
    "pagemap that ends in a length": (cut("pagemap-7.img", 16), r"pagemap-7.img: the file ends within the length at"),
    "overlapping entries": (
        pagemap(FITS[0], entry(BASE + PAGE, PAGE, "lazy")),
        r"pagemap-7.img: entry 2: vaddr 0x7f0000001000 lies before 0x7f0000100000, where the entry before it ends",
    ),
    "unsorted entries": (pagemap(FITS[1], FITS[0]), r"pagemap-7.img: entry 2: vaddr 0x7f0000000000 lies before"),
    "unaligned entry": (pagemap(entry(BASE + 8, PAGE, "lazy")), r"pagemap-7.img: entry 1: vaddr 0x7f0000000008 is no"),
    "no pages": (pagemap(entry(BASE, 0, "lazy")), r"pagemap-7.img: entry 1: nr_pages is 0"),
    "absurd pages": (
        pagemap(entry(BASE, PAGE, "lazy", nr_pages=(1 << 64) - 1)),
        r"pagemap-7.img: entry 1: vaddr 0x7f0000000000 with nr_pages 18446744073709551615 ends above",
    ),
    "pages beyond the file": (
        pagemap(entry(BASE, 2 * CUT, "lazy")),
        r"pages-1.img: it has 1056768 bytes, and pagemap-7.img needs 2097152",
    ),
    "entry above": (pagemap(entry(TOO_HIGH, PAGE, "lazy")), r"entry 1: vaddr 0x200000000000000 with nr_pages 1 ends"),
    "entry far above": (pagemap(entry((1 << 64) - PAGE, PAGE, "lazy")), r"entry 1: vaddr 0xfffffffffffff000 with"),
    "unknown flags": (pagemap(entry(BASE, PAGE, "lazy", flags=0x40)), r"pagemap-7.img: entry 1: flags are 0x40"),
    "no flags": (pagemap(entry(BASE, PAGE, "lazy", flags=0)), r"pagemap-7.img: entry 1: flags are 0x0"),
    "present and in the parent": (pagemap(entry(BASE, PAGE, "lazy", flags=5)), r"entry 1: flags are 0x5: both"),
    "aligned, but not present": (pagemap(entry(BASE, PAGE, "lazy", flags=10)), r"entry 1: flags are 0xa: it has comp"),
    "an encrypted entry": (pagemap(twice(b"\x2a\x04abcd")), r"pagemap-7.img: entry 1: it has fields that pyuffd does"),
    "an unreleased CRIU": (pagemap(twice(b"\x30\x00\x30\x00\x38\x00")), r"entry 1: it has fields that pyuffd does not"),
    "no pages file": (gone("pages-1.img"), r"pages-1.img: the file is missing, and pagemap-7.img needs 1056768 bytes"),
    "truncated pages": (cut("pages-1.img", -1), r"pages-1.img: it has 1056767 bytes, and pagemap-7.img needs 1056768"),
    "block sizes": (blocks(sizes=(PAGE,) * 255), r"entry 1: block_sizes has 255 sizes, and 256 belong to nr_pages 256"),
    "large block": (blocks(sizes=(PAGE + 1,) * 256), r"entry 1: block_sizes\[0\] is 4097, more than the 4096 bytes"),
    "last block": (blocks(100, (0, 0, 57 * PAGE)), r"entry 1: block_sizes\[2\] is 233472, more than the 229376 bytes"),
    "sum of blocks": (blocks(total=CUT + 1), r"total_payload_size is 1048577, and block_sizes add up to 1048576"),
    "no pages in a block": (blocks(per_block=0), r"entry 1: pages_per_block is 0, not 1 to 1024"),
    "too many pages in a block": (blocks(per_block=1025), r"entry 1: pages_per_block is 1025, not 1 to 1024"),
    "compressed in the parent": (blocks(flags=3), r"entry 1: flags are 0x3: it has compressed pages, but not PE_PRES"),
    "compressed too early": (
        both(blocks(), put("inventory.img", -1, b"\x02")),
        r"pagemap-7.img: entry 1: it is compressed, and img_version of the inventory permits that from 3 on",
    ),
    "no parent": (both(pagemap(PARENT), gone("parent")), r"parent: the parent that an entry needs cannot be opened"),
    "a parent that leads nowhere": (both(pagemap(PARENT), link("parent", "nowhere")), r"parent: .* No such file"),
    "a loop of parents": (
        both(pagemap(PARENT), link("parent", "../second")),
        r"parent: the link leads back to \S+second: the parents are a loop",
    ),
    "a longer loop of parents": (
        both(pagemap(PARENT), lambda folder: pagemap(PARENT)(folder / "parent"), link("../first/parent", "../second")),
        r"parent/parent: the link leads back to \S+second: the parents are a loop",
    ),
    "no pagemap in the parent": (
        both(pagemap(PARENT), gone("../first/pagemap-7.img")),
        r"parent/pagemap-7.img: the file is missing, and entries of pagemap-7.img need it",
    ),
    "no page in the parent": (
        both(pagemap(PARENT), lambda folder: pagemap(FITS[1])(folder / "parent")),
        r"parent/pagemap-7.img: no entry has the page at 0x7f0000000000, and pagemap-7.img says PE_PARENT",
    ),
    "an eager page that no parent has": (
        both(pagemap(entry(BASE, CUT, "parent")), lambda folder: pagemap(FITS[1])(folder / "parent")),
        r"parent/pagemap-7.img: no entry has the page at 0x7f0000000000, and pagemap-7.img says PE_PARENT",
    ),
    "a hole in the parent": (
        both(
            pagemap(PARENT),
            lambda folder: pagemap(entry(BASE, PAGE, "present"), FITS[1])(folder / "parent"),
        ),
        r"parent/pagemap-7.img: no entry has the page at 0x7f0000001000, and pagemap-7.img says PE_PARENT",
    ),
    "truncated pages of the parent": (
        both(pagemap(PARENT), cut("../first/pages-1.img", PAGE)),
        r"parent/pages-1.img: it has 4096 bytes, and parent/pagemap-7.img needs 2097152",
    ),
    "a link to a pagemap": (link("pagemap-7.img", "../first/pagemap-7.img"), r"pagemap-7.img: it is a symbolic"),
    "a link to other pages": (link("pages-1.img", "../first/pages-1.img"), r"pages-1.img: it is a symbolic link"),
    "a pipe": (
        both(gone("mm-7.img"), lambda folder: os.mkfifo(folder / "mm-7.img")),
        r"mm-7.img: it is no regular file",
    ),
    "a sparse file": (cut("mm-7.img", 1 << 40), r"mm-7.img: its size is 1099511627776 bytes, more than 1073741824"),
    "shared memory in the parent": (
        lambda folder: (folder / "pagemap-shmem-3.img").write_bytes(
            image(schema.PAGEMAP_MAGIC, message("pagemap_head", pages_id=5), entry(0, PAGE, "lazy parent"))
        ),
        r"parent/pagemap-shmem-3.img: the file is missing, and entries of pagemap-shmem-3.img need it",
    ),
    "shared memory": (
        lambda folder: (folder / "pagemap-shmem-3.img").write_bytes(
            image(schema.PAGEMAP_MAGIC, message("pagemap_head", pages_id=5), entry(0, PAGE, "present"))
        ),
        r"pages-5.img: the file is missing, and pagemap-shmem-3.img needs 4096 bytes of it",
    ),
}  # fmt: skip
