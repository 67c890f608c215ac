"""The images that CRIU writes of processes: ``Images`` parses and checks what a lazy restore needs of them.

It needs protobuf, and lz4 for compressed pages: ``pip install 'pyuffd[criu]'``.
"""

from pyuffd.criu.errors import ImageError
from pyuffd.criu.images import Images, Shared, Task, Totals
from pyuffd.criu.ranges import LazyRange, LazyRanges
from pyuffd.criu.vmas import Vma

__all__ = ["ImageError", "Images", "LazyRange", "LazyRanges", "Shared", "Task", "Totals", "Vma"]
