"""Sources: where the bytes of pages come from."""

import faulthandler
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import become_nobody, run_child, tell
from support.memory import PAGE, Managed, random_bytes
from support.state import no_descriptor_leaks, until

import pyuffd


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        memoryview,
        lambda data: np.frombuffer(data, np.uint8),
        lambda data: np.frombuffer(data[: len(data) // 8 * 8], "f8").reshape(2, -1),
    ],
    ids=["bytes", "bytearray", "memoryview", "array", "matrix"],
)
def test_memory(make: Callable[[bytes], Any]) -> None:
    data = random_bytes(2 * PAGE)
    source = pyuffd.MemorySource(make(data))
    assert isinstance(source, pyuffd.Source)
    assert source.length == 2 * PAGE
    assert source.read(10, 100) == data[10:110]
    assert source.read(2 * PAGE, 0) == b""
    with pytest.raises(IndexError, match=r"behind the end|but the source has"):
        source.read(2 * PAGE - 1, 2)
    with pytest.raises(IndexError):
        source.read(1 << 63, 1)
    with pytest.raises(IndexError):
        source.read(0, 1 << 45)
    with pytest.raises(ValueError, match="offset is -1"):
        source.read(-1, 1)


def test_memory_that_is_no_buffer() -> None:
    for other in ("text", 5, None, [1, 2]):
        with pytest.raises(TypeError):
            pyuffd.MemorySource(other)  # type: ignore[arg-type]
    strided = np.zeros((10, 10), np.uint8)[:, ::2]
    with pytest.raises(ValueError, match="contiguous"):
        pyuffd.MemorySource(strided)


def test_zeros() -> None:
    source = pyuffd.ZeroSource()
    assert source.length >= 1 << 62
    assert source.read(1 << 60, 5) == bytes(5)


@pytest.mark.parametrize("convert", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
def test_file(tmp_path: Path, convert: Callable[[Path], Any]) -> None:
    data = random_bytes(3 * PAGE + 1)
    path = tmp_path / "imagé"
    path.write_bytes(data)
    source = pyuffd.FileSource(convert(path))
    assert source.length == len(data)
    assert source.read(PAGE - 1, PAGE) == data[PAGE - 1 : 2 * PAGE - 1]
    with pytest.raises(IndexError):
        source.read(3 * PAGE, 2)


def test_a_file_is_served(tmp_path: Path) -> None:
    memory = Managed(pages=100)
    (tmp_path / "image").write_bytes(memory.data)
    region = memory.region(source=pyuffd.FileSource(tmp_path / "image"))
    uffd = pyuffd.Userfaultfd(user_mode_only=None)
    with pyuffd.serve(uffd, [region]) as target:
        memory.touch(0, 50, order="random")
        target.close("fill")
    assert memory.states() == ["right"] * 100


def test_file_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with no_descriptor_leaks():
        with pytest.raises(FileNotFoundError, match="cannot open the source file '/nonexistent'"):
            pyuffd.FileSource("/nonexistent")
        with pytest.raises(ValueError, match="is empty"):
            pyuffd.FileSource(empty)
        with pytest.raises(ValueError, match="is not a regular file"):
            pyuffd.FileSource(tmp_path)
        with pytest.raises(ValueError, match="is not a regular file"):
            pyuffd.FileSource("/dev/zero")
        with pytest.raises(ValueError, match="null byte"):
            pyuffd.FileSource(f"{tmp_path}/empty\0more")
        with pytest.raises(TypeError):
            pyuffd.FileSource(5)  # type: ignore[arg-type]


def a_fifo_is_refused_at_once_child(path: str) -> None:
    try:
        pyuffd.FileSource(path)
    except ValueError as error:
        tell("not a regular file" in str(error))


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert run_child(a_fifo_is_refused_at_once_child, tmp_path / "fifo") is True


def an_unreadable_file_child(path: Any) -> None:
    become_nobody()
    try:
        pyuffd.FileSource(path)
    except PermissionError as error:
        tell(str(error))


@pytest.mark.requires_root
def test_an_unreadable_file() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "image"
        path.write_bytes(b"x" * PAGE)
        path.chmod(0)
        assert "cannot open the source file" in run_child(an_unreadable_file_child, path)


def test_a_file_that_shrank_says_so_when_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(4 * PAGE))
    source = pyuffd.FileSource(path)
    os.truncate(path, PAGE)
    assert source.length == 4 * PAGE
    with pytest.raises(IndexError, match="shrank below byte"):
        source.read(2 * PAGE, 10)


@pytest.mark.requires_full_userfaultfd
@pytest.mark.requires_poison
def test_a_file_that_shrinks_while_it_serves_poisons_whole_pages(tmp_path: Path) -> None:
    memory = Managed(pages=10)
    path = tmp_path / "image"
    path.write_bytes(memory.data)
    region = memory.region(source=pyuffd.FileSource(path))
    with pyuffd.serve(pyuffd.Userfaultfd(), [region], fault_around=1) as target:
        memory.touch(0, 2)
        memory.touch(8, 1)  # behind the new end, but installed before
        os.truncate(path, 5 * PAGE + 100)
        memory.touch(2, 3)
        report = target.close("fill")
        stats = target.stats()
    # Page 5 has 100 bytes of its own and zeros, as a file that ends there.
    assert report.missing_pages == 0
    assert report.poisoned == ((memory.at(6), 2 * PAGE), (memory.at(9), PAGE))
    assert stats.poisoned == 3
    assert [memory.state(page) for page in (0, 1, 2, 3, 4, 8)] == ["right"] * 6
    assert memory.mapping.array[5 * PAGE : 5 * PAGE + 100].tobytes() == memory.data[5 * PAGE : 5 * PAGE + 100]


def touching_what_a_file_lost_is_sigbus_child(path: str) -> None:
    memory = Managed(pages=10)
    Path(path).write_bytes(memory.data)
    source = pyuffd.FileSource(path)
    _target = pyuffd.serve(pyuffd.Userfaultfd(), [memory.region(source=source)], fault_around=16)
    os.truncate(path, 5 * PAGE)
    memory.touch(0, 5)  # fault-around reaches behind the end, and must not fail the others
    tell("right")
    faulthandler.disable()
    memory.touch(7, 1)
    tell("survived")


@pytest.mark.requires_full_userfaultfd
@pytest.mark.requires_poison
def test_touching_what_a_file_lost_is_sigbus(tmp_path: Path) -> None:
    assert run_child(touching_what_a_file_lost_is_sigbus_child, tmp_path / "image", expected=-7) == "right"


def test_a_file_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(PAGE))
    source: Any = pyuffd.FileSource(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    del source
    until(lambda: str(path) not in Path("/proc/self/maps").read_text())
