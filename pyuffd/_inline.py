"""Memory that is served inline: its SIGBUS, and system calls on it."""

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
            "another handler of SIGBUS was installed (faulthandler.enable(), signal.signal()) while memory is served "
            "inline. pyuffd has put its own handler in front of it again. A touch before now would have ended this "
            "process: install the other handler before the first inline target",
            RuntimeWarning,
            stacklevel=3,
        )


def touch(memory: "Buffer | npt.NDArray[Any]", offset: int = 0, length: int | None = None) -> None:
    """Load every page of a buffer, so that system calls on the buffer work.

    In memory that is served inline or in user mode only, a system call on a missing page (file.write, readinto,
    sendfile) fails with EFAULT, or stops early. Call this function on the memory first. In other memory this function
    does nothing that a read would not do.

    Args:
        memory: A C-contiguous buffer, such as an array.
        offset: The first byte.
        length: The number of bytes; None is up to the end.

    Raises:
        ValueError: The range lies outside of the buffer, or the buffer is not contiguous.
        OSError: EFAULT: a page of memory that is served inline is poisoned, or its source cannot supply it.
    """
    check_sigbus()
    _core.touch(memory, offset, length)
