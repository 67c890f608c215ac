"""A process that starts another daemon when one has crashed, and hands it the targets and the sockets."""

import signal
import subprocess
import time
from collections import deque
from types import FrameType

from pyuffd._take_over import give_up, guard_path
from pyuffd.daemon import control, owner, sockets
from pyuffd.daemon.image import make_sockets, start_daemon
from pyuffd.daemon.options import Options
from pyuffd.daemon.served import log

_LONGEST_PAUSE = 5.0
_FIRST_PAUSE = 0.05


class Supervisor:
    """Keeps one daemon running.

    The sockets are the supervisor's, so that nobody who connects meanwhile is refused; the targets are the guard's
    until the next daemon has taken them over.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._signals: list[int] = []
        self._next: subprocess.Popen[bytes] | None = None  # while it takes over
        self._crashes: deque[float] = deque(maxlen=options.restart_limit)

    def run(self) -> int:
        """Supervise until a daemon ends by itself, or crashes too often.

        Returns:
            The exit code.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        listener, requests = make_sockets(self._options)
        with listener, requests:
            fds = (listener.fileno(), requests.fileno())
            try:
                return self._supervise(fds)
            finally:
                for path in (self._options.socket, control.control_path(self._options.socket)):
                    sockets.remove(path)
                owner.forget(self._options.socket)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _supervise(self, fds: tuple[int, int]) -> int:
        worker = self._start(fds)
        crashed: list[int] = []
        while True:
            code = self._await(worker, fds)
            if code == 0:
                if self._next is None:
                    return 0
                worker, self._next = self._next, None  # it has taken over
                continue
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._crashes.append(time.monotonic())
            window = self._options.restart_window
            if len(self._crashes) == self._options.restart_limit and time.monotonic() - self._crashes[0] < window:
                log.error("the daemon ended by %s, %d times within %g s: giving up", why, len(self._crashes), window)
                for pid in [*crashed, worker.pid]:
                    _give_up(pid)
                return 1
            pause = min(_FIRST_PAUSE * 2 ** (len(self._crashes) - 1), _LONGEST_PAUSE)
            log.warning("the daemon, process %d, ended by %s: starting another", worker.pid, why)
            if len(self._crashes) > 1:
                time.sleep(pause)  # the back-off
            # Some targets may be of the guard of one that crashed while it took over.
            crashed = [pid for pid in [*crashed, worker.pid] if guard_path(pid).exists()]
            worker = self._start(fds, *(word for pid in crashed for word in ("--take-over", str(pid))))

    def _start(self, fds: tuple[int, int], *more: str) -> "subprocess.Popen[bytes]":
        return start_daemon(self._options, "--worker", f"{fds[0]},{fds[1]}", *more, descriptors=fds)

    def _await(self, worker: "subprocess.Popen[bytes]", fds: tuple[int, int]) -> int:
        """Wait for its end, pass signals on, and upgrade it at SIGHUP."""
        while True:
            try:
                return worker.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if self._next is not None and self._next.poll() is not None:
                    log.error(
                        "the upgrade failed with exit code %d: the daemon before serves on", self._next.returncode
                    )
                    self._next = None
                for number in self._signals:
                    if number != signal.SIGHUP:
                        worker.send_signal(number)
                    elif self._next is None:
                        self._next = self._start(fds, "--replace")
                self._signals.clear()


def _give_up(pid: int) -> None:
    """Nobody is to wait for a daemon that does not come."""
    if not guard_path(pid).exists():
        return
    try:
        give_up(pid, timeout=10.0)
        log.error("what the targets of process %d miss is poisoned", pid)
    except (ConnectionError, TimeoutError) as error:
        log.error("the guard of process %d does not answer: %s", pid, error)
