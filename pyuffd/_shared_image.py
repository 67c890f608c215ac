"""Images that many targets share."""

import math
import time

from pyuffd import _core
from pyuffd._arguments import check_seconds
from pyuffd._progress import page_bar

_SLICE = 0.05


class SharedImage(_core.SharedImage):
    """The bytes of a source in one file in memory (memfd_create(2)) that any number of targets map.

    It is filled once, page by page as somebody first touches it, or by ``fill()``; targets get its pages by
    UFFDIO_CONTINUE, so restoring it into N of them takes one image of memory and what they write. A target maps the
    descriptor, MAP_PRIVATE or MAP_SHARED (then it shares what it writes), and is served with this as the source of its
    regions, at the offset that it maps, and mode ``"missing+minor"``. A page is mapped into a target only when it is
    filled; a process that nobody serves may see zeros in pages that were not filled when it looked.

    Args:
        source: Where the bytes come from; a ``CallableSource`` is asked for each page once.
        kind: ``"memfd"``, or ``"hugetlb"`` for pages of the default hugetlb pool, all reserved at once.

    Raises:
        ValueError: The source is empty, endless, or an image.
        OSError: No memory; the message names the hugetlb pages that lack.
    """

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> bool:
        """Wait until the image is complete; call ``fill()`` first.

        Args:
            timeout: Seconds; None waits without end.
            progress: Show a progress bar on stderr; None shows it on a terminal and in a notebook.

        Returns:
            False on timeout.

        Raises:
            ValueError: The timeout is NaN.
            RuntimeError: Nobody fills it, or its source cannot supply some page.
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
                        f"{self.missing_pages} pages of the image are missing, and nobody fills them: call fill(), or "
                        "see what its source says to read()"
                    )
                if done or time.monotonic() >= deadline:
                    return done
