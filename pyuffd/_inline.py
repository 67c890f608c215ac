"""Helpers for inline serving: SIGBUS, and the touch before a system call."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pyuffd import _core

if TYPE_CHECKING:
    from typing_extensions import Buffer


def check_sigbus() -> None:
    """If somebody has taken over SIGBUS while targets are served inline, take SIGBUS back, and warn."""
    if _core.regain_sigbus():
        warnings.warn(
            "somebody has taken SIGBUS over (faulthandler.enable(), signal.signal()) while memory is served inline. "
            "pyuffd has taken SIGBUS back, and passes on each SIGBUS that is not a fault of its own. A touch of a "
            "missing page before now would have ended this process: take over SIGBUS before the first inline target",
            RuntimeWarning,
            stacklevel=3,
        )


def touch(memory: "Buffer | npt.NDArray[Any]", offset: int = 0, length: int | None = None) -> None:
    """Load every page of a buffer, so that kernel accesses to the buffer work.

    A system call that accesses a missing page (file.write, readinto, sendfile) fails with EFAULT, or returns a short
    count, in two cases: the memory is served inline, or by a userfaultfd that was opened with ``user_mode_only``. Call
    ``touch()`` before the system call. Memory that nobody serves does not change.

    Args:
        memory: A C-contiguous buffer: an array, for example.
        offset: The offset of the first byte in the buffer.
        length: The length in bytes. None is up to the end of the buffer.

    Raises:
        ValueError: The range lies outside the buffer, or the buffer is not contiguous.
        OSError: EFAULT: in memory that is served inline, a page is poisoned, or its source cannot supply it.
    """
    check_sigbus()
    _core.touch(memory, offset, length)
