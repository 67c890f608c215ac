"""``pyuffd images --check``: everything that is wrong with the images of a checkpoint, not the first of it alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyuffd.criu.errors import ImageError
from pyuffd.criu.folder import Folder
from pyuffd.criu.images import Task, shmids_of
from pyuffd.criu.inventory import Kin, kin_of, version_of
from pyuffd.criu.layer import Layer
from pyuffd.criu.ranges import all_of
from pyuffd.criu.schema import PE_PARENT

_OF_TASK = re.compile(r"(?:mm|pagemap)-(\d+)\.img")
_PAGES = re.compile(r"pages-\d+\.img")

T = TypeVar("T")


def problems(path: Path) -> list[str]:
    """Look at every image of a folder and of its parents, and return what is wrong, one sentence each.

    Raises:
        OSError: The folder cannot be opened.
    """
    return _Check(Folder(path)).run()


class _Check:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._found: list[str] = []
        self._layers: list[Layer] = []

    def run(self) -> list[str]:
        version = self._try(lambda: version_of(self._folder))
        if version is None:
            return self._found
        kin = self._try(lambda: kin_of(self._folder, version)) or []
        for one in kin:
            self._check_task(one, version)
        for shmid in shmids_of(self._folder):
            self._check_shared(f"pagemap-shmem-{shmid}.img", version)
        for layer in self._layers:
            self._check_pages(layer)
        self._check_numbers()
        self._check_strays({one.pid for one in kin})
        return self._found

    def _try(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except ImageError as error:
            if str(error) not in self._found:
                self._found.append(str(error))
            return None

    def _say(self, file: str, what: str) -> None:
        self._found.append(str(ImageError(file, what)))

    def _check_task(self, kin: Kin, version: int) -> None:
        task = self._try(lambda: Task(self._folder, version, kin))
        if task is None:
            return
        self._try(lambda: task.comm)
        if self._try(lambda: task.vmas) is None or task.layer is None:
            return
        self._layers.append(task.layer)
        self._check_lazy(task)

    def _check_lazy(self, task: Task) -> None:
        """A page that CRIU does not register is never asked for; hugetlb was registered before CRIU 4."""
        by_start = {vma.start: vma for vma in task.vmas}
        starts = task.vma_starts.tolist()
        for number in sorted({one.vma for one in task.lazy}):
            vma = by_start[starts[number]]
            if not vma.can_be_lazy and not vma.hugetlb:
                what = f"lazy pages lie in {vma.start:#x} to {vma.end:#x}, whose flags {vma.flags:#x} permit none"
                self._say(f"pagemap-{task.pid}.img", what)

    def _check_shared(self, file: str, version: int) -> None:
        layer = self._try(lambda: Layer(self._folder, file, self._folder.need(file), version))
        if layer is not None and self._try(lambda: all_of(layer)) is not None:
            self._layers.append(layer)

    def _check_pages(self, layer: Layer) -> None:
        """Pages files that are longer than their pagemaps say, in parents too."""
        below: Layer | None = layer
        while below:
            layer = below
            described = int(layer.offsets[-1])
            if layer.pages_size > described:
                self._say(layer.pages_name, f"it has {layer.pages_size} bytes, and {layer.name} describes {described}")
            below = self._try(layer.parent) if (layer.entries.flags & PE_PARENT).any() else None

    def _check_numbers(self) -> None:
        owners: dict[int, str] = {}
        for layer in self._layers:
            owner = owners.setdefault(layer.pages_id, layer.name)
            if owner != layer.name:
                self._say(layer.name, f"pages_id {layer.pages_id} is that of {owner}, too")

    def _check_strays(self, pids: set[int]) -> None:
        pages = {layer.pages_path.name for layer in self._layers}
        for name in self._folder.names():
            of_task = _OF_TASK.fullmatch(name)
            if of_task and int(of_task[1]) not in pids:
                self._say(name, f"pstree.img has no pid {of_task[1]}")
            if not self._found and _PAGES.fullmatch(name) and name not in pages:
                self._say(name, "no pagemap has its number")
