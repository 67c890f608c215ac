"""A pagemap with its pages file: what one dump saved of one address space."""

import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from pyuffd.criu.blocks import Blocks
from pyuffd.criu.entries import entries_of
from pyuffd.criu.errors import ImageError
from pyuffd.criu.folder import Folder
from pyuffd.criu.inventory import version_of
from pyuffd.criu.schema import COMPRESSED_VERSION, PAGEMAP_MAGIC, PE_PARENT, PE_PRESENT
from pyuffd.criu.wire import cut


class Layer:
    """What a folder has of an address space.

    Attributes:
        name: The pagemap image, as errors name it.
        entries: Its entries.
        offsets: Where each entry's pages begin in the pages file; the last one is where they end.
        pages_name: The pages file, as errors name it.
        pages_path: Its path.
        pages_size: Its size in bytes; 0 if there is none, and no entry needs it.
        pages_id: Its number.
    """

    def __init__(self, folder: Folder, file: str, data: bytes, version: int) -> None:
        self._folder, self._file = folder, file
        self.name = folder.label + file
        image = cut(self.name, data, PAGEMAP_MAGIC, version)
        if not len(image.starts):
            raise ImageError(self.name, "its first message, pagemap_head, is missing")
        self.pages_id: int = image.message(0, "pagemap_head").pages_id
        self.entries = entries_of(image, mmap.PAGESIZE, may_compress=version >= COMPRESSED_VERSION)
        self.offsets = self.entries.offsets(mmap.PAGESIZE)
        self._pages_file = f"pages-{self.pages_id}.img"
        self.pages_name = folder.label + self._pages_file
        self.pages_path: Path = folder.path / self._pages_file
        self.pages_size = self._checked_size()
        self._fd: int | None = None
        self._parent: Layer | None = None

    def parent(self) -> "Layer":
        """The same address space in the parent's folder."""
        if self._parent is None:
            folder = self._folder.parent()
            data = folder.read(self._file)
            if data is None:
                raise ImageError(folder.label + self._file, f"the file is missing, and entries of {self.name} need it")
            self._parent = Layer(folder, self._file, data, version_of(folder))
        return self._parent

    def read(self, address: int, length: int) -> bytes:
        """The bytes of memory that this layer, or one of its parents, has."""
        parts = []
        while length > 0:
            number = int(np.searchsorted(self.entries.end, address, side="right"))
            if number == self.entries.count or self.entries.start[number] > address:
                raise ImageError(self.name, f"no entry has the page at {address:#x}")
            taken = min(length, int(self.entries.end[number]) - address)
            parts.append(self._read_entry(number, address, taken))
            address, length = address + taken, length - taken
        return b"".join(parts)

    def _read_entry(self, number: int, address: int, length: int) -> bytes:
        flags = int(self.entries.flags[number])
        if flags & PE_PARENT:
            return self.parent().read(address, length)
        if not flags & PE_PRESENT:
            raise ImageError(self.name, f"entry {number + 1}: its pages are with the page server, in no file")
        offset, skipped = int(self.offsets[number]), address - int(self.entries.start[number])
        blocks: Blocks | None = self.entries.blocks.get(number)
        if blocks is None:
            return self._pread(offset + skipped, length)
        return blocks.read(skipped, length, lambda at, size: self._pread(offset + at, size), self.pages_name)

    def _pread(self, offset: int, length: int) -> bytes:
        if self._fd is None:
            self._fd = self._opened()
        data = os.pread(self._fd, length, offset)
        if len(data) != length:
            raise ImageError(self.pages_name, f"{len(data)} of {length} bytes at offset {offset} are left")
        return data

    def _opened(self) -> int:
        fd = self._folder.open(self._pages_file)
        if fd is None:
            raise ImageError(self.pages_name, "the file is missing")
        weakref.finalize(self, os.close, fd)
        return fd

    def _checked_size(self) -> int:
        size, needed = self._folder.size(self._pages_file), int(self.offsets[-1])
        if size is None and needed:
            raise ImageError(self.pages_name, f"the file is missing, and {self.name} needs {needed} bytes of it")
        if (size or 0) < needed:
            raise ImageError(self.pages_name, f"it has {size} bytes, and {self.name} needs {needed}")
        return size or 0
