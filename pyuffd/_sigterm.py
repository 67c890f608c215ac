"""What SIGTERM does about the targets of this process."""

import os
import signal
import time
from types import FrameType
from typing import Any, Literal, get_args

from pyuffd import _exit
from pyuffd._arguments import check_seconds, check_word
from pyuffd._log import listener
from pyuffd._target import Target

OnSigterm = Literal["fill", "poison"]


def on_sigterm(missing: OnSigterm = "fill", *, timeout: float | None = 60.0) -> None:
    """Have SIGTERM finish the targets of this process before the process ends.

    Without this, SIGTERM ends Python at once, and the guard does what it does after a crash (see ``ServeOptions``).
    This installs a handler of SIGTERM. The handler finishes the targets, and then calls the handler that was installed
    before. If there was none, the process dies of SIGTERM. A second SIGTERM ends the process at once.

    Args:
        missing: What is done about missing pages: ``"fill"`` installs them, ``"poison"`` poisons them.
        timeout: Seconds that ``"fill"`` may take for all targets together. After that the guard does the rest; None:
            without a limit.

    Raises:
        ValueError: ``missing`` or the timeout makes no sense; or the caller is not the main thread, which alone can
            install handlers of signals.
    """
    check_word("missing", missing, get_args(OnSigterm))
    check_seconds("timeout", timeout)
    before = signal.getsignal(signal.SIGTERM)

    def finish(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if missing == "fill":
            _fill(None if timeout is None else time.monotonic() + timeout)
        else:
            _poison()
        if callable(before):
            signal.signal(signal.SIGTERM, before)
            before(number, frame)
            return
        listener.end()
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, finish)


def _fill(deadline: float | None) -> None:
    targets = _served()
    for target in targets:
        _try(target.fill)
    for target in targets:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if _try(target.wait, left, progress=False) and target.missing_pages == 0:
            _try(target.close)


def _poison() -> None:
    for target in _served():
        _try(target.close, "poison")


def _served() -> list[Target]:
    """The targets in other processes, and their fork children."""
    return [each for each in _exit.live if not each.ended and each._stopped is None and each.pid != os.getpid()]


def _try(call: Any, *arguments: Any, **options: Any) -> Any:
    """Call it. An error leaves this target to the guard, and keeps no other from its end."""
    try:
        return call(*arguments, **options)
    except Exception:
        return None
