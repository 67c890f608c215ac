"""The inventory of a folder, and its tasks."""

from typing import NamedTuple

from pyuffd.criu.errors import ImageError
from pyuffd.criu.folder import Folder
from pyuffd.criu.schema import CORE_MAGIC, INVENTORY_MAGIC, PSTREE_MAGIC, VERSIONS
from pyuffd.criu.wire import cut

# As many as the kernel gives pids.
_HIGHEST_PID = 1 << 22


class Kin(NamedTuple):
    """A task among the others.

    Attributes:
        pid: The one inside the pid namespace that is restored.
        ppid: That of its parent.
        threads: The ids of its threads.
    """

    pid: int
    ppid: int
    threads: tuple[int, ...]


def version_of(folder: Folder) -> int:
    """The version of the images of a folder."""
    name = "inventory.img"
    data = folder.read(name)
    if data is None:
        raise ImageError(folder.label + name, f"the file is missing: {folder.path} has no images of criu dump")
    version: int = cut(folder.label + name, data, INVENTORY_MAGIC, 0).sole("inventory_entry").img_version
    if version not in VERSIONS:
        raise ImageError(folder.label + name, f"img_version is {version}, and pyuffd knows 1 to {VERSIONS[-1]}")
    return version


def kin_of(folder: Folder, version: int) -> list[Kin]:
    """All tasks, parents before their children."""
    name = folder.label + "pstree.img"
    image = cut(name, folder.need("pstree.img"), PSTREE_MAGIC, version)
    found: dict[int, Kin] = {}
    for number in range(len(image.starts)):
        entry = image.message(number, "pstree_entry")
        if not 0 < entry.pid <= _HIGHEST_PID:
            raise ImageError(name, f"entry {number}: pid is {entry.pid}, not 1 to {_HIGHEST_PID}")
        if entry.pid in found:
            raise ImageError(name, f"entry {number}: pid {entry.pid} is there twice")
        found[entry.pid] = Kin(entry.pid, entry.ppid, tuple(entry.threads))
    return list(found.values())


def comm_of(folder: Folder, version: int, pid: int) -> str:
    """The name of a task's program; empty where no image has it."""
    name = f"core-{pid}.img"
    data = folder.read(name)
    if data is None:
        return ""
    core = cut(folder.label + name, data, CORE_MAGIC, version).sole("core_entry")
    return str(core.tc.comm.decode(errors="backslashreplace"))
