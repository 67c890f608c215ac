"""Any bytes in the place of an image: the parsers refuse them in one sentence, or take them; soon, and nothing else."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.criu_fuzzed import BASE, NAMES, survives, valid
from support.criu_images import PAGE, image, message

from pyuffd.criu import ImageError, schema
from pyuffd.criu.entries import _one_by_one, entries_of
from pyuffd.criu.wire import cut

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))

TOP = 1 << 64
EDGES = [0, 1, 127, 128, PAGE, BASE, 1 << 32, 1 << 47, 1 << 56, (1 << 56) - PAGE, 1 << 63, TOP - PAGE, TOP - 1]
near = st.integers(0, 40).map(lambda number: BASE + number * PAGE)
u64 = st.sampled_from(EDGES) | near | st.integers(0, TOP - 1)
u32 = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 14, 256, (1 << 32) - 1]) | st.integers(0, (1 << 32) - 1)
edits = st.lists(
    st.tuples(st.sampled_from(["put", "insert", "delete"]), st.integers(0, 4096), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = valid(tmp_path_factory.mktemp("fuzz")).path
    assert all(survives(path, name, (path / name).read_bytes()) for name in NAMES)
    return path


def edited(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    found = bytearray(data)
    for what, at, more in changes:
        place = at % (len(found) + 1)
        found[place : place + (0 if what == "insert" else len(more))] = b"" if what == "delete" else more
    return bytes(found)


@SETTINGS
@given(name=st.sampled_from(NAMES), changes=edits)
def test_changed_images(folder: Path, name: str, changes: list[tuple[str, int, bytes]]) -> None:
    survives(folder, name, edited((folder / name).read_bytes(), changes))


@SETTINGS
@given(name=st.sampled_from(NAMES), data=st.binary(max_size=300), magic=st.booleans())
def test_noise(folder: Path, name: str, data: bytes, magic: bool) -> None:
    kept = (folder / name).read_bytes()[: 4 if "inventory" in name else 8] if magic else b""
    survives(folder, name, kept + data)


def entries() -> st.SearchStrategy[list[dict[str, Any]]]:
    optional = {"flags": u32, "nr_pages": u64, "in_parent": st.booleans()}
    fields = st.fixed_dictionaries({"vaddr": u64, "compat_nr_pages": u32}, optional=optional)
    return st.lists(fields, max_size=5)


@SETTINGS
@given(name=st.sampled_from(["pagemap-7.img", "pagemap-shmem-3.img", "parent/pagemap-7.img"]), found=entries())
def test_any_entries(folder: Path, name: str, found: list[dict[str, Any]]) -> None:
    made = [message("pagemap_entry", **fields) for fields in found]
    survives(folder, name, image(schema.PAGEMAP_MAGIC, message("pagemap_head", pages_id=1), *made))


@SETTINGS
@given(found=st.lists(st.fixed_dictionaries({"start": u64, "end": u64, "status": u32, "flags": u32}), max_size=5))
def test_any_mappings(folder: Path, found: list[dict[str, Any]]) -> None:
    made = message("mm_entry", vmas=[message("vma_entry", **fields) for fields in found])
    survives(folder, "mm-7.img", image(schema.MM_MAGIC, made))


@SETTINGS
@given(sizes=st.lists(u32, max_size=8), total=u64, pages=u64, per_block=u32)
def test_any_blocks(folder: Path, sizes: list[int], total: int, pages: int, per_block: int) -> None:
    blocks = message("pagemap_blocks", block_sizes=sizes, total_payload_size=total, pages_per_block=per_block)
    made = message("pagemap_entry", vaddr=BASE, flags=6, nr_pages=pages, blocks=blocks)
    survives(folder, "pagemap-7.img", image(schema.PAGEMAP_MAGIC, message("pagemap_head", pages_id=1), made))


gaps = st.tuples(st.integers(0, 5), st.integers(1, 300), st.sampled_from([1, 2, 4, 6]))


@settings(deadline=None, max_examples=100)
@given(base=st.sampled_from([0, PAGE, 1 << 20, BASE]), rows=st.lists(gaps, min_size=1, max_size=40), old=st.booleans())
def test_both_ways_of_parsing_agree(base: int, rows: list[tuple[int, int, int]], old: bool) -> None:
    made, at = [], base
    for gap, pages, flags in rows:
        at += gap * PAGE
        count = {"compat_nr_pages": pages} if old else {"nr_pages": pages}
        made.append(message("pagemap_entry", vaddr=at, flags=flags, **count))
        at += pages * PAGE
    data = image(schema.PAGEMAP_MAGIC, message("pagemap_head", pages_id=1), *made)
    found = cut("pagemap-7.img", data, schema.PAGEMAP_MAGIC, 2)
    quick, slow = entries_of(found, PAGE, may_compress=False), _one_by_one(found, PAGE, False)
    for name in ("start", "end", "flags"):
        assert np.array_equal(getattr(quick, name), getattr(slow, name))
    assert quick.count == len(rows)


def test_a_length_is_checked_before_memory_is_taken() -> None:
    data = struct.pack("<III", schema.COMMON_MAGIC, schema.PSTREE_MAGIC, (1 << 32) - 1)
    with pytest.raises(ImageError, match="a length of 4294967295 bytes, and 0 are left"):
        cut("pstree.img", data, schema.PSTREE_MAGIC, 2)


def test_the_fuzzer_starts_or_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "support.criu_fuzzing", "--minutes", "0.02"]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=False, timeout=60)
    said = done.stderr.splitlines()
    if done.returncode == 0:
        assert any("Done" in line for line in said)
    else:
        assert said == ["tests/fuzz: atheris is missing: pip install atheris"]
