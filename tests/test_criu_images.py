"""``pyuffd.criu.Images`` on images that the imitation of CRIU wrote: tasks, mappings, versions, speed."""

import gc
import struct
import sys
import time
from pathlib import Path

import pytest
from support.criu_checked import BASE, check_bytes, one_task
from support.criu_images import (
    CUT,
    PAGE,
    PRIVATE_ANONYMOUS,
    REGULAR,
    Imitated,
    Mapped,
    Saved,
    entry,
    image,
    message,
    write,
    write_shared,
)
from support.state import open_descriptors

from pyuffd.criu import Images, schema

VSYSCALL = Mapped(0xFFFFFFFFFF600000, 0x1000, status=schema.VMA_AREA_VSYSCALL | schema.VMA_ANON_PRIVATE)


def test_a_tree_has_zombies_threads_and_names(tmp_path: Path) -> None:
    mapped, saved = (Mapped(BASE, 1 << 20),), (Saved(BASE, PAGE),)
    tasks = [
        Imitated(1, comm="init", mapped=mapped, saved=saved, threads=(2, 3)),
        Imitated(4, 1, "zombie"),
        Imitated(5, 1, "child", mapped, saved),
    ]
    written = write(tmp_path, tasks)
    found = Images(tmp_path).tasks
    assert [(task.pid, task.ppid, task.comm, task.threads) for task in found.values()] == [
        (1, 0, "init", (1, 2, 3)),
        (4, 1, "zombie", (4,)),
        (5, 1, "child", (5,)),
    ]
    assert [task.has_memory for task in found.values()] == [True, False, True]
    assert len(found[4].lazy) == 0
    assert check_bytes(written, Images(tmp_path)) == 2 * PAGE


def test_mappings_tell_what_they_are(tmp_path: Path) -> None:
    huge = 0x40000 | 21 << 26
    mapped = (
        Mapped(BASE, PAGE),
        Mapped(BASE + PAGE, PAGE, 0x01 | 0x20, REGULAR | schema.VMA_ANON_SHARED, shmid=9, pgoff=PAGE),
        Mapped(BASE + 2 * PAGE, PAGE, 0x02, REGULAR | schema.VMA_FILE_PRIVATE),
        Mapped(BASE + 3 * PAGE, PAGE, PRIVATE_ANONYMOUS | 0x2000),
        Mapped(BASE + (2 << 20), 2 << 20, PRIVATE_ANONYMOUS | huge),
        VSYSCALL,
        Mapped(BASE, PAGE, status=schema.VMA_AREA_GUARD),
    )
    one_task(tmp_path, Saved(BASE, PAGE), mapped=mapped)
    task = Images(tmp_path).tasks[7]
    assert [vma.can_be_lazy for vma in task.vmas] == [True, False, False, False, False, False, True]
    assert [vma.shared for vma in task.vmas] == [False, True] + [False] * 5
    assert [vma.anonymous for vma in task.vmas][:3] == [True, True, False]
    assert [vma.page_size for vma in task.vmas][3:5] == [PAGE, 2 << 20]
    assert (task.vmas[1].shmid, task.vmas[1].pgoff) == (9, PAGE)
    assert task.vma_starts.tolist() == [one.start for one in mapped[:5]]


def test_shared_memory_is_eager(tmp_path: Path) -> None:
    written = one_task(tmp_path, Saved(BASE, PAGE))
    write_shared(written, 33, 2 * CUT + PAGE, 40)
    images = Images(tmp_path)
    assert images.shared[33].totals.eager == 2 * CUT + PAGE
    assert images.totals.lazy == PAGE


@pytest.mark.parametrize("flags", [None, 4])
def test_images_from_before_4_2_are_read(tmp_path: Path, flags: int | None) -> None:
    written = write(tmp_path, [Imitated(7, mapped=(Mapped(BASE, CUT),), saved=[Saved(BASE, 9 * PAGE)])], old=True)
    assert check_bytes(written, Images(tmp_path)) == 9 * PAGE
    old = message("pagemap_entry", vaddr=BASE, compat_nr_pages=9, **({} if flags is None else {"flags": flags}))
    head = message("pagemap_head", pages_id=1)
    (tmp_path / "pagemap-7.img").write_bytes(image(schema.PAGEMAP_MAGIC, head, old))
    assert Images(tmp_path).totals.eager == 9 * PAGE


def test_the_first_version_has_no_common_magic(tmp_path: Path) -> None:
    written = one_task(tmp_path, Saved(BASE, PAGE), version=1)
    for path in tmp_path.glob("*.img"):
        if path.read_bytes()[:4] == struct.pack("<I", schema.COMMON_MAGIC):
            path.write_bytes(path.read_bytes()[4:])
    assert check_bytes(written, Images(tmp_path)) == PAGE


def test_irregular_entries_mean_the_same(tmp_path: Path) -> None:
    """Entries that are not alike are parsed by protobuf: the same ranges come out."""
    written = one_task(
        tmp_path, Saved(BASE, 3 * PAGE), Saved(BASE + 4 * PAGE, PAGE, "present"), Saved(BASE + CUT, 300 * PAGE)
    )
    regular = Images(tmp_path)
    entries = [entry(BASE, 3 * PAGE, "lazy"), entry(BASE + 4 * PAGE, PAGE, "present"), entry(BASE + CUT, CUT, "lazy")]
    entries[1].ClearField("flags")
    entries += [entry(BASE + 2 * CUT, 300 * PAGE - CUT, "lazy", in_parent=False)]
    head = message("pagemap_head", pages_id=1)
    (tmp_path / "pagemap-7.img").write_bytes(image(schema.PAGEMAP_MAGIC, head, *entries))
    irregular = Images(tmp_path)
    assert list(irregular.tasks[7].lazy) == list(regular.tasks[7].lazy)
    assert irregular.totals == regular.totals
    assert check_bytes(written, irregular) == 303 * PAGE


def test_numbers_beyond_32_bits_are_cut_as_protobuf_cuts_them(tmp_path: Path) -> None:
    one_task(tmp_path, Saved(BASE, PAGE))
    made = message("vma_entry", start=BASE, end=(1 << 32) + 1).SerializePartialToString()[:14]  # two of its fields
    assert made[8] == 0x10
    head = message("pagemap_head", pages_id=1)
    (tmp_path / "pagemap-7.img").write_bytes(image(schema.PAGEMAP_MAGIC, head, made))
    assert Images(tmp_path).totals.eager == PAGE


def test_nothing_stays_open(tmp_path: Path) -> None:
    first = one_task(tmp_path / "1", Saved(BASE, PAGE, "present"))
    task = Imitated(7, mapped=(Mapped(BASE, CUT),), saved=[Saved(BASE, PAGE, "lazy parent")])
    write(tmp_path / "2", [task], parent=first)
    gc.collect()  # what earlier tests left
    before = open_descriptors()
    images = Images(tmp_path / "2")
    assert images.tasks[7].read(BASE, PAGE) == first.memory(7, BASE, PAGE)
    del images
    assert open_descriptors() == before


def test_parsing_takes_no_quadratic_step(tmp_path: Path) -> None:
    def seconds(regions: int) -> float:
        starts = range(BASE, BASE + regions * CUT, CUT)
        mapped = (*(Mapped(start, CUT // 2) for start in starts), VSYSCALL)
        folder = tmp_path / str(regions)
        write(folder, [Imitated(7, mapped=mapped, saved=[Saved(start, PAGE) for start in starts])])
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            images = Images(folder)
            best = min(best, time.perf_counter() - begin)
        assert len(images.tasks[7].lazy) == regions
        return best

    assert seconds(8000) < 12 * seconds(1000) + 0.005


def test_protobuf_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pyuffd.criu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(ModuleNotFoundError, match=r"need protobuf: pip install 'pyuffd\[criu\]'"):
        __import__("pyuffd.criu")
