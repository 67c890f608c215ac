"""Images that are damaged or hostile: one sentence that names file, field and value, and nothing else."""

import time
from pathlib import Path

import pytest
from support.criu_damage import BASE, DAMAGES, PARENT, Damage, both, cut, gone, grown, pagemap, put, vmas, whole
from support.criu_images import CUT, PAGE, PRIVATE_ANONYMOUS, Imitated, Mapped, Saved, entry, write

from pyuffd.criu import ImageError, Images
from pyuffd.criu.check import problems


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    folder = whole(tmp_path)
    assert problems(folder) == []
    damage(folder)
    begin = time.perf_counter()
    with pytest.raises(ImageError, match=expected) as caught:
        Images(folder)
    assert time.perf_counter() - begin < 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{caught.value.file}: ")
    assert str(caught.value) in problems(folder)


def test_a_check_tells_everything(tmp_path: Path) -> None:
    folder = whole(tmp_path)
    for damage in (cut("pages-1.img", -1), gone("core-8.img"), put("core-7.img", 4, b"....")):
        damage(folder)
    (folder / "mm-9.img").write_bytes(b"")
    found = problems(folder)
    assert len(found) == 2  # what task 7's pages lack comes before its name
    assert found[0].startswith("pages-1.img: it has 1056767 bytes")
    assert found[1] == "mm-9.img: pstree.img has no pid 9"


CHECKED: dict[str, tuple[Damage, str]] = {
    "too long": (
        grown("pages-1.img"),
        "pages-1.img: it has 1056769 bytes, and pagemap-7.img describes 1056768",
    ),
    "too long in the parent": (
        both(
            pagemap(PARENT, entry(BASE + CUT, CUT + 2 * PAGE, "present", nr_pages=2)),
            cut("pages-1.img", 2 * PAGE),
            grown("../first/pages-1.img"),
        ),
        "parent/pages-1.img: it has 2097153 bytes, and parent/pagemap-7.img describes 2097152",
    ),
    "one pages file for two": (
        lambda folder: (folder / "pagemap-shmem-3.img").write_bytes((folder / "pagemap-7.img").read_bytes()),
        "pagemap-shmem-3.img: pages_id 1 is that of pagemap-7.img, too",
    ),
    "pages of nobody": (lambda folder: (folder / "pages-9.img").touch(), "pages-9.img: no pagemap has its number"),
    "the name": (put("core-7.img", 4, b"...."), "core-7.img: its magic number 2 is 0x2e2e2e2e, not 0x55053847"),
    "lazy pages of a file": (
        vmas(Mapped(BASE, 2 * CUT, PRIVATE_ANONYMOUS & ~0x20)),
        "pagemap-7.img: lazy pages lie in 0x7f0000000000 to 0x7f0000200000, whose flags 0x2 permit none",
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_check_looks_at_what_a_restore_does_not_need(tmp_path: Path, name: str) -> None:
    damage, expected = CHECKED[name]
    folder = whole(tmp_path)
    damage(folder)
    assert len(Images(folder).tasks) == 2
    assert problems(folder) == [expected]


def test_a_check_goes_on_where_a_parent_lacks_a_parent_that_nobody_needs(tmp_path: Path) -> None:
    folder = whole(tmp_path)
    both(pagemap(PARENT), cut("pages-1.img", 0))(folder)
    pagemap(entry(BASE, CUT, "present"), entry(BASE + CUT, CUT, "parent"))(folder / "parent")
    assert Images(folder).tasks[7].totals.lazy == CUT
    assert problems(folder)[-1].startswith("parent/parent: the parent that an entry needs cannot be opened")


@pytest.mark.parametrize("damaged", [b"\x00" * 32, b"\xff" * 64])
def test_damaged_blocks_are_found_when_they_are_read(tmp_path: Path, damaged: bytes) -> None:
    mapped = (Mapped(BASE, CUT),)
    folder = write(tmp_path, [Imitated(7, mapped=mapped, saved=[Saved(BASE, 9 * PAGE, block=3)])], version=3).path
    task = Images(folder).tasks[7]
    good = task.read(BASE, 9 * PAGE)
    put("pages-1.img", 0, damaged)(folder)
    with pytest.raises(ImageError, match=r"pages-1.img: block 0 of \d+ bytes (is no LZ4 block|has \d+ bytes)"):
        task.read(BASE + PAGE, PAGE)
    cut("pages-1.img", 10)(folder)
    with pytest.raises(ImageError, match=r"pages-1.img: \d+ of \d+ bytes at offset \d+ are left"):
        task.read(BASE + 5 * PAGE, PAGE)
    assert len(good) == 9 * PAGE


def test_memory_that_no_image_has_is_not_read(tmp_path: Path) -> None:
    images = Images(whole(tmp_path))
    with pytest.raises(ImageError, match=r"pagemap-7.img: no entry has the page at 0x7f0000102000"):
        images.tasks[7].read(BASE + CUT + PAGE, 2 * PAGE)
    with pytest.raises(ImageError, match="task 8 has no memory"):
        images.tasks[8].read(BASE, PAGE)
