"""The regions of a restored task, and the sources of their pages."""

import numpy as np

from pyuffd._core import CallableSource, FileSource, Regions, Source
from pyuffd.criu.errors import ImageError
from pyuffd.criu.images import Task
from pyuffd.criu.ranges import COMPRESSED, FILE, REMOTE
from pyuffd.daemon.pages.client import ADDRESSES


def regions_of(task: Task, remote: Source | None) -> Regions:
    """Return the lazy memory of a task.

    Args:
        task: The task.
        remote: Has what is with the page server, by address; None if there is no page server.

    Raises:
        ImageError: Pages are with a page server, and there is none.
        OSError: A pages file cannot be opened.
    """
    ranges = task.lazy
    in_file = ranges.how == FILE
    files = np.unique(ranges.file[in_file])
    sources: list[Source] = [FileSource(ranges.files[number]) for number in files.tolist()]
    number = np.searchsorted(files, ranges.file)
    if (compressed := ranges.how == COMPRESSED).any():
        number[compressed] = len(sources)
        sources.append(CallableSource(task.read, ADDRESSES))
    if (elsewhere := ranges.how == REMOTE).any():
        number[elsewhere] = len(sources)
        sources.append(_checked(task, remote))
    offset = np.where(in_file, ranges.offset, ranges.start)
    return Regions(ranges.start, ranges.length, offset, number, sources)


def _checked(task: Task, remote: Source | None) -> Source:
    if remote is None:
        raise ImageError(
            f"pagemap-{task.pid}.img",
            "its pages are with the page server: give --page-server with its --address and --port",
        )
    return remote
