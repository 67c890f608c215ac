"""The folder of the images, and those of its parents."""

import errno
import os
import stat
import weakref
from pathlib import Path

from pyuffd.criu.errors import ImageError

# Far above what a checkpoint has; it bounds the memory that a sparse file makes us take.
_LARGEST = 1 << 30
_DEEPEST = 256


class Folder:
    """A folder with images. It stays open, so that nobody can exchange it meanwhile.

    Attributes:
        path: Where it was found; parents are reached through the links ``parent``.
        label: What its files are called in errors: empty, or ``parent/``, ``parent/parent/``.
    """

    def __init__(self, path: Path, *, below: "Folder | None" = None) -> None:
        self.path = path
        self.label: str = f"{below.label}parent/" if below else ""
        where = below._fd if below else None
        self._fd: int = os.open("parent" if below else path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=where)
        weakref.finalize(self, os.close, self._fd)
        found = os.fstat(self._fd)
        self._chain: list[tuple[int, int]] = [*(below._chain if below else []), (found.st_dev, found.st_ino)]
        self._parent: Folder | None = None

    def parent(self) -> "Folder":
        """The folder that the link ``parent`` leads to."""
        if self._parent is None:
            name = f"{self.label}parent"
            try:
                self._parent = Folder(self.path / "parent", below=self)
            except OSError as error:
                raise ImageError(name, f"the parent that an entry needs cannot be opened: {error.strerror}") from None
            if self._parent._chain[-1] in self._chain:
                raise ImageError(name, f"the link leads back to {self._parent.path.resolve()}: the parents are a loop")
            if len(self._parent._chain) > _DEEPEST:
                raise ImageError(name, f"there are more than {_DEEPEST} parents")
        return self._parent

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        with os.scandir(self._fd) as found:
            return sorted(one.name for one in found)

    def open(self, name: str) -> int | None:
        """Open a regular file, and return its descriptor; None if there is no such file."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            what = (
                "it is a symbolic link, which is not followed"
                if error.errno == errno.ELOOP
                else f"cannot be opened: {error.strerror}"
            )
            raise ImageError(self.label + name, what) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(self.label + name, "it is no regular file")
        return fd

    def size(self, name: str) -> int | None:
        """The size of a regular file; None if there is none."""
        fd = self.open(name)
        if fd is None:
            return None
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes | None:
        """All bytes of an image of metadata; None if there is no such file."""
        fd = self.open(name)
        if fd is None:
            return None
        with os.fdopen(fd, "rb", buffering=0) as file:
            size = os.fstat(fd).st_size
            if size > _LARGEST:
                raise ImageError(self.label + name, f"its size is {size} bytes, more than {_LARGEST}")
            data = file.readall()
        if len(data) > _LARGEST:
            raise ImageError(self.label + name, "it grows while it is read")
        return data

    def need(self, name: str) -> bytes:
        """All bytes of an image of metadata that must be there."""
        data = self.read(name)
        if data is None:
            raise ImageError(self.label + name, "the file is missing")
        return data
