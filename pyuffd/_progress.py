"""Progress bars of those who wait, shown where a person looks."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def page_bar(total: int, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """Show a bar of so many pages; gives what is told how many of them are there.

    Args:
        total: Pages.
        progress: Whether to show it; None shows it on a terminal and in a notebook.
    """
    if not _is_shown(progress):
        yield lambda _: None
        return
    from tqdm.auto import tqdm  # takes a moment to import, and nobody needs it who sees no bar

    with tqdm(total=total, unit="page", unit_scale=True) as bar:

        def tell(there: int) -> None:
            bar.update(there - bar.n)

        yield tell


def _is_shown(progress: bool | None) -> bool:
    if progress is None:
        return _has_stderr() and (_is_notebook() or sys.stderr.isatty())
    return progress and _has_stderr()


def _is_notebook() -> bool:
    """Whether IPython's kernel, which has no terminal, shows what is written."""
    return "ipykernel" in sys.modules


def _has_stderr() -> bool:
    """Whether anything can be written to it: a daemon has none, or one whose descriptor is closed."""
    if sys.stderr is None or sys.stderr.closed:
        return False
    try:
        os.fstat(sys.stderr.fileno())
    except io.UnsupportedOperation:  # no descriptor that could be closed
        return True
    except OSError:
        return False
    return True
