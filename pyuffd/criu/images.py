"""The images of a checkpoint: its tasks, their mappings, and where their memory comes from."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pyuffd.criu.columns import Numbers
from pyuffd.criu.errors import ImageError
from pyuffd.criu.folder import Folder
from pyuffd.criu.inventory import Kin, comm_of, kin_of, version_of
from pyuffd.criu.layer import Layer
from pyuffd.criu.ranges import COMPRESSED, FILE, REMOTE, LazyRanges, Pieces, all_of, eager_of, lazy_of
from pyuffd.criu.vmas import Vma, Vmas, vmas_of

_SHARED = re.compile(r"pagemap-shmem-(\d+)\.img")


class Totals(NamedTuple):
    """Bytes of memory.

    Attributes:
        lazy: What is installed after the restore.
        eager: What the restore itself installs.
        plain: What stands in pages files as it is.
        compressed: What is compressed there.
        remote: What is with the page server.
        stored: How large the task's own pages file is.
    """

    lazy: int = 0
    eager: int = 0
    plain: int = 0
    compressed: int = 0
    remote: int = 0
    stored: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """The sums of both."""
        return Totals(*(one + another for one, another in zip(self, other, strict=True)))


class Task:
    """A task of the checkpoint.

    Attributes:
        pid: The one inside the pid namespace that is restored.
        ppid: That of its parent.
        threads: The ids of its threads.
        has_memory: Whether it has an address space. A zombie has none.
        lazy: The memory that is installed after the restore.
        totals: What its memory comes to.
        layer: Its pagemap and its pages file; None if it has no memory.
    """

    def __init__(self, folder: Folder, version: int, kin: Kin) -> None:
        self.pid, self.ppid, self.threads = kin
        self._folder, self._version = folder, version
        self.lazy, self.totals = LazyRanges.none(), Totals()
        self._vmas: Vmas | None = None
        self.layer: Layer | None = None
        name = f"mm-{kin.pid}.img"
        data = folder.read(name)
        self.has_memory = data is not None
        if data is not None:
            self._vmas = Vmas(folder.label + name, data, version)
            self._load(folder.label + name)

    @property
    def vma_starts(self) -> Numbers:
        """The first addresses of its mappings, without those that pages never lie in."""
        return self._mapped().start

    @property
    def vma_ends(self) -> Numbers:
        """The addresses behind them."""
        return self._mapped().end

    @property
    def regions(self) -> int:
        """How many mappings that is."""
        return len(self._vmas.start) if self._vmas else 0

    @cached_property
    def vmas(self) -> list[Vma]:
        """All its mappings. The image is read again, since to keep the images of all tasks takes much memory."""
        name = f"mm-{self.pid}.img"
        return vmas_of(name, self._folder.need(name), self._version) if self.has_memory else []

    @cached_property
    def comm(self) -> str:
        """The name of its program; empty where no image has it."""
        return comm_of(self._folder, self._version, self.pid)

    def read(self, address: int, length: int) -> bytes:
        """Read saved memory, through parents and compression. Threads may call it at once.

        Raises:
            ImageError: A page is in no image, or its bytes are damaged.
        """
        if self.layer is None:
            raise ImageError(f"mm-{self.pid}.img", f"task {self.pid} has no memory")
        return self.layer.read(address, length)

    def _mapped(self) -> Vmas:
        if self._vmas is None:
            raise ImageError(f"mm-{self.pid}.img", f"task {self.pid} has no memory")
        return self._vmas

    def _load(self, mm_name: str) -> None:
        file = f"pagemap-{self.pid}.img"
        self.layer = Layer(self._folder, file, self._folder.need(file), self._version)
        self.lazy, lazy = lazy_of(self.layer, self.vma_starts, self.vma_ends, mm_name)
        eager = eager_of(self.layer)
        self.totals = _totals(lazy, eager, self.layer.pages_size)


class Shared(NamedTuple):
    """Shared memory, which a restore installs itself.

    Attributes:
        shmid: The number that VMAs name it by.
        totals: What it comes to.
    """

    shmid: int
    totals: Totals


class Images:
    """The images of a checkpoint, all parsed and checked.

    Attributes:
        path: Their folder.
        version: ``img_version`` of their inventory.
        tasks: The tasks by pid, as it stands in the images: the one inside the restored pid namespace.
        shared: The shared memory that has images, by number.

    Args:
        path: The folder.

    Raises:
        ImageError: An image is missing or damaged; the text says which, and what of it.
        OSError: The folder cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        folder = Folder(self.path)
        self.version = version_of(folder)
        self.tasks = {kin.pid: Task(folder, self.version, kin) for kin in kin_of(folder, self.version)}
        self.shared = {shmid: shared_of(folder, self.version, shmid) for shmid in shmids_of(folder)}

    @property
    def wide_pagemaps(self) -> bool:
        """Whether a CRIU wrote them that counts pages in 64 bits (commit 7e0da4d97, September 2025)."""
        return all(task.layer.entries.wide for task in self.tasks.values() if task.layer)

    @cached_property
    def totals(self) -> Totals:
        """What all of it comes to."""
        found = Totals()
        for task in self.tasks.values():
            found = found.plus(task.totals)
        for shared in self.shared.values():
            found = found.plus(shared.totals)
        return found


def shmids_of(folder: Folder) -> list[int]:
    """The numbers of the shared memory that has images."""
    return sorted(int(found[1]) for found in map(_SHARED.fullmatch, folder.names()) if found)


def shared_of(folder: Folder, version: int, shmid: int) -> Shared:
    """Parse the pagemap of shared memory, whose addresses are offsets; CRIU restores it all at once."""
    file = f"pagemap-shmem-{shmid}.img"
    layer = Layer(folder, file, folder.need(file), version)
    return Shared(shmid, _totals(None, all_of(layer), layer.pages_size))


def _totals(lazy: Pieces | None, eager: Pieces, stored: int) -> Totals:
    both = [one for one in (lazy, eager) if one is not None]
    plain, compressed, remote = (sum(one.length_of(how) for one in both) for how in (FILE, COMPRESSED, REMOTE))
    return Totals(lazy.length if lazy else 0, eager.length, plain, compressed, remote, stored)
