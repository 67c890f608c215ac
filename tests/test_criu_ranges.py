"""The lazy ranges of ``pyuffd.criu.Images``: where they begin and end, and that all their bytes are right."""

import sys
from pathlib import Path

import pytest
from support.criu_checked import BASE, check_bytes, one_task
from support.criu_images import (
    CUT,
    PAGE,
    Imitated,
    Mapped,
    Saved,
    write,
)

from pyuffd.criu import ImageError, Images, LazyRange


def test_a_range_is_one_although_its_entries_are_cut(tmp_path: Path) -> None:
    written = one_task(tmp_path, Saved(BASE + PAGE, 5 * CUT + PAGE))
    task = Images(tmp_path).tasks[7]
    assert list(task.lazy) == [
        LazyRange(BASE + PAGE, 5 * CUT + PAGE, str(tmp_path / "pages-1.img"), 0, "file", 0),
    ]
    assert check_bytes(written, Images(tmp_path)) == 5 * CUT + PAGE


def test_a_range_ends_where_its_mapping_ends(tmp_path: Path) -> None:
    mapped = (Mapped(BASE, 3 * PAGE), Mapped(BASE + 3 * PAGE, 5 * PAGE), Mapped(BASE + 9 * PAGE, PAGE))
    written = one_task(tmp_path, Saved(BASE + PAGE, 6 * PAGE), mapped=mapped)
    lazy = Images(tmp_path).tasks[7].lazy
    assert [(one.start - BASE, one.length, one.offset, one.vma) for one in lazy] == [
        (PAGE, 2 * PAGE, 0, 0),
        (3 * PAGE, 4 * PAGE, 2 * PAGE, 1),
    ]
    assert check_bytes(written, Images(tmp_path)) == 6 * PAGE


def test_ranges_are_not_joined_where_only_the_offset_goes_on(tmp_path: Path) -> None:
    """Page 0 lies at offset 0 of the child's file, and page 1 at offset 4096 of the parent's; page 2 in none."""
    first = one_task(tmp_path / "1", Saved(BASE, 2 * PAGE, "present"))
    saved = [Saved(BASE, PAGE), Saved(BASE + PAGE, PAGE, "lazy parent"), Saved(BASE + 2 * PAGE, PAGE, "remote")]
    task = Imitated(7, mapped=(Mapped(BASE, CUT),), saved=[*saved, Saved(BASE + 3 * PAGE, PAGE, block=1)])
    written = write(tmp_path / "2", [task], parent=first, version=3)
    images = Images(tmp_path / "2")
    assert [(one.how, one.offset, one.length) for one in images.tasks[7].lazy] == [
        ("file", 0, PAGE),
        ("file", PAGE, PAGE),
        ("remote", -1, PAGE),
        ("compressed", -1, PAGE),
    ]
    assert images.tasks[7].read(BASE, 2 * PAGE) == written.memory(7, BASE, 2 * PAGE)


def test_raw_pages_may_lie_at_an_odd_offset(tmp_path: Path) -> None:
    saved = (
        Saved(BASE, 3 * PAGE, block=3),
        Saved(BASE + 3 * PAGE, 2 * PAGE),
        Saved(BASE + 5 * PAGE, PAGE, aligned=True),
    )
    written = one_task(tmp_path, *saved, version=3)
    images = Images(tmp_path)
    packed, odd, aligned = images.tasks[7].lazy
    assert (packed.how, odd.how, aligned.how) == ("compressed", "file", "file")
    assert odd.offset % PAGE > 0
    assert aligned.offset % PAGE == 0
    assert check_bytes(written, images) == 6 * PAGE


def test_eager_pages_between_move_the_offset_but_are_not_lazy(tmp_path: Path) -> None:
    saved = (Saved(BASE, 2 * PAGE), Saved(BASE + 2 * PAGE, 3 * PAGE, "present"), Saved(BASE + 5 * PAGE, PAGE))
    written = one_task(tmp_path, *saved)
    images = Images(tmp_path)
    assert [(one.start - BASE, one.offset) for one in images.tasks[7].lazy] == [(0, 0), (5 * PAGE, 5 * PAGE)]
    assert images.totals == (3 * PAGE, 3 * PAGE, 6 * PAGE, 0, 0, 6 * PAGE)
    assert check_bytes(written, images) == 3 * PAGE
    assert images.tasks[7].read(BASE, 6 * PAGE) == written.memory(7, BASE, 6 * PAGE)


def test_parents_are_followed_to_the_one_that_has_the_pages(tmp_path: Path) -> None:
    first = one_task(tmp_path / "1", Saved(BASE, 8 * PAGE, "present"))
    middle = [Saved(BASE, 2 * PAGE, "parent"), Saved(BASE + 2 * PAGE, 2 * PAGE, "present")]
    task = Imitated(7, mapped=(Mapped(BASE, 16 << 20),), saved=[*middle, Saved(BASE + 4 * PAGE, 4 * PAGE, "parent")])
    second = write(tmp_path / "2", [task], parent=first)
    saved = [
        Saved(BASE + PAGE, 5 * PAGE, "lazy parent"),
        Saved(BASE + 6 * PAGE, PAGE),
        Saved(BASE + 7 * PAGE, PAGE, "parent"),
    ]
    third = write(tmp_path / "3", [Imitated(7, mapped=task.mapped, saved=saved)], parent=second)
    images = Images(tmp_path / "3")
    found = [((one.start - BASE) // PAGE, one.length // PAGE, one.offset // PAGE) for one in images.tasks[7].lazy]
    assert found == [(1, 1, 1), (2, 2, 0), (4, 2, 4), (6, 1, 0)]
    places = [Path(one.file).resolve().parent.name for one in images.tasks[7].lazy]
    assert places == ["1", "2", "1", "3"]
    assert check_bytes(third, images) == 6 * PAGE
    assert images.tasks[7].read(BASE + 7 * PAGE, PAGE) == first.memory(7, BASE + 7 * PAGE, PAGE)


@pytest.mark.parametrize("block", [1, 3, 64])
def test_compressed_pages_are_described_and_read(tmp_path: Path, block: int) -> None:
    saved = (
        Saved(BASE, 7 * PAGE, block=block),
        Saved(BASE + 7 * PAGE, PAGE, aligned=True),
        Saved(BASE + 8 * PAGE, 2 * CUT, "present", block=block),
        Saved(BASE + 3 * CUT, 64 * PAGE, block=block, aligned=True),
    )
    written = one_task(tmp_path, *saved, version=3)
    images = Images(tmp_path)
    task = images.tasks[7]
    assert [(one.how, one.offset == -1) for one in task.lazy] == [
        ("compressed", True),
        ("file", False),
        ("compressed", True),
    ]
    assert check_bytes(written, images) == 72 * PAGE
    assert task.totals.compressed == 71 * PAGE + 2 * CUT
    assert task.totals.plain == PAGE
    for start in range(0, 7 * PAGE, 1000):  # any part, within and across blocks
        expected = written.memory(7, BASE, 8 * PAGE)[start : start + 5000]
        assert task.read(BASE + start, len(expected)) == expected


def test_pages_of_the_page_server_have_no_file(tmp_path: Path) -> None:
    one_task(tmp_path, Saved(BASE, 3 * PAGE, "remote"))
    task = Images(tmp_path).tasks[7]
    assert list(task.lazy) == [LazyRange(BASE, 3 * PAGE, "", -1, "remote", 0)]
    assert task.totals.remote == 3 * PAGE
    with pytest.raises(ImageError, match="page server"):
        task.read(BASE, PAGE)


def test_lz4_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_task(tmp_path, Saved(BASE, 3 * PAGE, block=1), version=3)
    monkeypatch.setitem(sys.modules, "lz4", None)
    task = Images(tmp_path).tasks[7]  # it describes them all the same
    assert task.read(BASE, PAGE) == bytes(PAGE)
    with pytest.raises(ModuleNotFoundError, match=r"need lz4: pip install 'pyuffd\[criu\]'"):
        task.read(BASE + 2 * PAGE, PAGE)
