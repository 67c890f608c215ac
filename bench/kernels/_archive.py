"""The file system that a kernel starts with: a cpio archive of programs (the kernel's early-userspace)."""

import stat
from collections.abc import Mapping
from pathlib import Path


def write_initramfs(archive: Path, programs: Mapping[str, Path]) -> None:
    """Write one with programs, by their names in its root, and the console that they print to."""
    entries = [
        _entry("dev", stat.S_IFDIR | 0o755),
        _entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        *(_entry(name, stat.S_IFREG | 0o755, content=path.read_bytes()) for name, path in programs.items()),
        _entry("TRAILER!!!", 0),
    ]
    archive.write_bytes(b"".join(entries))


def _entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Format one member in cpio's "newc" format; all parts are padded to 4 bytes."""
    name_bytes = name.encode() + b"\0"
    numbers = [0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name_bytes), 0]
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name_bytes) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
