"""Faults that are resolved by the thread which touches, and what they cannot do."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pyuffd import _core

if TYPE_CHECKING:
    from typing_extensions import Buffer


def check_sigbus() -> None:
    """Take SIGBUS back from whoever has taken it over from targets that are served inline, and warn."""
    if _core.regain_sigbus():
        warnings.warn(
            "somebody has taken SIGBUS over (faulthandler.enable(), signal.signal()) while memory is served inline: it "
            "is taken back, with theirs behind it, but a touch before now would have ended this process; do it before "
            "the first inline target",
            RuntimeWarning,
            stacklevel=3,
        )


def touch(memory: "Buffer | npt.NDArray[Any]", offset: int = 0, length: int | None = None) -> None:
    """Have every page of a buffer present, so that kernel accesses to it work.

    A system call that reads or writes a missing page (file.write, readinto, sendfile) fails with EFAULT, or a short
    count, where its memory is served inline, or by a userfaultfd that was opened with ``user_mode_only``: touch it
    before. Ordinary memory is left alone.

    Args:
        memory: A C-contiguous buffer, an array for instance.
        offset: In bytes.
        length: In bytes; None is up to the end.

    Raises:
        ValueError: The range lies outside the buffer, or that is not contiguous.
        OSError: EFAULT: some page of memory that is served inline is poisoned, or its source cannot supply it.
    """
    check_sigbus()
    _core.touch(memory, offset, length)
