"""Images that many targets share."""

import math
import time

from pyuffd import _core
from pyuffd._arguments import check_seconds
from pyuffd._progress import page_bar

_SLICE = 0.05


class SharedImage(_core.SharedImage):
    """The bytes of a source in one file in memory (memfd_create(2)) that any number of targets map.

    Each page is filled once, when a target first touches it or by ``fill()``. Targets get the pages by UFFDIO_CONTINUE.
    N targets therefore need the memory of one image, and the memory of the pages that they write. A target maps the
    descriptor with MAP_PRIVATE, or with MAP_SHARED to share its writes. The image is the source of the target's
    regions, with the offset that the target maps and the mode ``"missing+minor"``. A page is mapped into a target only
    after the page is filled. A process that maps the image and is not served can see zeros in unfilled pages.

    Args:
        source: Where the bytes come from. A ``CallableSource`` is called once for each page.
        kind: ``"memfd"``, or ``"hugetlb"`` for pages of the default hugetlb pool, which are all reserved at once.

    Raises:
        ValueError: The source is empty, has no end, or is a ``SharedImage``.
        OSError: There is not enough memory. The message names the number of missing hugetlb pages.
    """

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> bool:
        """Wait until no page of the image is missing. Call ``fill()`` first.

        Args:
            timeout: Seconds to wait. None waits without end.
            progress: Whether to show a progress bar on stderr. None shows it on a terminal and in a notebook.

        Returns:
            False on timeout, and True otherwise.

        Raises:
            ValueError: The timeout is NaN.
            RuntimeError: ``fill()`` was not called, or the source cannot supply a page.
        """
        check_seconds("timeout", timeout)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pages = self.length // self.page_size
        with page_bar(pages, progress) as tell:
            while True:
                done = self._wait(max(0.0, min(_SLICE, deadline - time.monotonic())))
                tell(pages - self.missing_pages)
                if done is None:
                    raise RuntimeError(
                        f"{self.missing_pages} pages of the image are missing, and nobody fills them: call fill(). If "
                        "fill() was called, the source cannot supply them: call the source's read() to see why"
                    )
                if done or time.monotonic() >= deadline:
                    return done
