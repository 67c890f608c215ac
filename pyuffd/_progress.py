"""Progress bars of waits, shown on a terminal and in a notebook."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def page_bar(total: int, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, and yield a function that takes the number of installed pages.

    Args:
        total: The number of all pages.
        progress: Whether to show the bar. None shows it on a terminal and in a notebook.
    """
    if not _is_shown(progress):
        yield lambda _: None
        return
    from tqdm.auto import tqdm  # The import is slow, and only a bar needs it.

    with tqdm(total=total, unit="page", unit_scale=True) as bar:

        def tell(there: int) -> None:
            bar.update(there - bar.n)

        yield tell


def _is_shown(progress: bool | None) -> bool:
    if progress is None:
        return _has_stderr() and (_is_notebook() or sys.stderr.isatty())
    return progress and _has_stderr()


def _is_notebook() -> bool:
    """Whether the process is a kernel of IPython, which shows output without a terminal."""
    return "ipykernel" in sys.modules


def _has_stderr() -> bool:
    """Whether stderr can be written to. A daemon has no stderr, or one whose descriptor is closed."""
    if sys.stderr is None or sys.stderr.closed:
        return False
    try:
        os.fstat(sys.stderr.fileno())
    except io.UnsupportedOperation:  # This stderr has no descriptor.
        return True
    except OSError:
        return False
    return True
