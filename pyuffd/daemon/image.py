"""``pyuffd serve image``: the daemon for targets that hand themselves over by ``pyuffd.handoff``."""

import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from pyuffd import handoff
from pyuffd._core import FileSource, MissingPagesError, UnsupportedError
from pyuffd._manager import Manager
from pyuffd._strangers import peer_of
from pyuffd._take_over import await_next_manager
from pyuffd._target import Target
from pyuffd._version import __version__
from pyuffd.daemon import control, owner, sockets
from pyuffd.daemon.limits import allow_many_descriptors
from pyuffd.daemon.loop import Loop
from pyuffd.daemon.notify import notify, watchdog_seconds
from pyuffd.daemon.options import Options
from pyuffd.daemon.reception import Reception
from pyuffd.daemon.served import Targets, log

_LOOK_SECONDS = 0.2
_TAKE_OVER_SECONDS = 30.0


class ImageDaemon:
    """One process that serves many targets from one file.

    The main thread has the loop: connections, requests, signals, and the look at who has ended. Each hand-off is
    received on a thread of its own, since its sender may take its time.
    """

    def __init__(self, options: Options) -> None:
        allow_many_descriptors()
        self._options = options
        self._source = FileSource(options.image)
        self._targets = Targets()
        self._adding = threading.Lock()
        self._loop = Loop(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self._began = time.time()
        self._supervisor = os.getppid()
        self._manager = Manager(options.handlers, options.fillers, guards=2 if options.worker else 1)

    def run(self) -> int:
        """Serve until a signal ends it.

        Returns:
            The exit code.
        """
        with self._loop:
            if self._options.guard == "manager":
                await_next_manager(self._options.wait_limit)
            self._listener, self._requests = self._sockets()
            owner.note(self._options.socket)
            with self._listener, self._requests:
                self._reception = Reception(self._loop, self._listener, self._options.allow, self._serve_next)
                self._loop.welcome(self._requests, self._answer)
                log.info("serving %s at %s", self._options.image, self._options.socket)
                notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=serving {self._options.image}")
                self._serve()
                self._stop_listening()
        return self._end()

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        """Take over from the daemon before, if there is one, and have its sockets, the supervisor's, or new ones."""
        options = self._options
        before = list(options.take_over)
        made: tuple[int, ...] = ()
        left = owner.left_by(options.socket)
        if options.replace:
            made = self._replace(left, before)
        elif left is not None and left not in before and not options.worker:
            log.warning(
                "process %d, which served here, has ended, and its guard may hold targets: give --take-over %d",
                left, left,
            )  # fmt: skip
        for pid in before:
            self._take_over(pid)
        if options.worker:
            for fd in made:
                os.close(fd)
            made = options.worker
        if made:
            listener, requests = made
            return socket.socket(fileno=listener), socket.socket(fileno=requests)
        return make_sockets(options)

    def _replace(self, left: int | None, before: list[int]) -> tuple[int, ...]:
        """Ask the daemon that runs to end, and add its pid to those before; or that of one that has died."""
        try:
            found, made = control.ask(self._options.socket, "replace")  # it ends with its answer
        except ConnectionError:
            if left is None:
                raise
            log.warning("process %d, which served here, has died: taking its targets over", left)
            before.append(left)
            return ()
        before.append(found["pid"])
        return made

    def _take_over(self, pid: int) -> None:
        """Go on with what a daemon has left, if it has left something."""
        try:
            taken = self._manager.take_over(pid, self._source, timeout=_TAKE_OVER_SECONDS)
        except ConnectionError:
            log.info("no guard of process %d answers: it had no target, or its guards were killed, too", pid)
            return
        for target in taken:
            self._add(target, None)
        log.info("took %d targets over from process %d", len(taken), pid)

    def _add(self, target: Target, uid: int | None, length: int | None = None) -> None:
        self._targets.add(target, uid, length)
        self._begin_fill(target)

    def _begin_fill(self, target: Target) -> None:
        if self._options.fill:
            target.fill()

    def _serve(self) -> None:
        watchdog = watchdog_seconds()
        told = time.monotonic()
        signals = self._loop.signals
        while signal.SIGTERM not in signals and signal.SIGINT not in signals:
            self._loop.turn(_LOOK_SECONDS)
            self._look_at_the_supervisor()
            self._reception.look()
            for child in self._targets.look():
                self._begin_fill(child)
            if watchdog and time.monotonic() - told > watchdog:
                told = time.monotonic()
                notify("WATCHDOG=1", f"STATUS={len(self._targets.all())} targets")
            if signal.SIGHUP in signals and not self._options.worker:
                signals.remove(signal.SIGHUP)
                start_daemon(self._options, "--replace")

    def _stop_listening(self) -> None:
        """Refuse who connects from now on, and serve who has connected. A supervisor's socket goes on."""
        if not self._options.worker:
            self._listener.shutdown(socket.SHUT_RDWR)
        self._reception.finish()

    def _look_at_the_supervisor(self) -> None:
        if self._options.worker and self._supervisor != os.getppid():
            self._supervisor = os.getppid()
            log.error(
                "the supervisor has ended. This daemon serves on; if it dies, what its targets miss is poisoned after "
                "%g s (--wait-limit)", self._options.wait_limit or math.inf,
            )  # fmt: skip

    def _serve_next(self, connection: socket.socket) -> None:
        options = self._options
        with connection:
            pid, uid, _ = peer_of(connection)
            try:
                got = handoff.receive(connection, self._source, max_bytes=options.max_bytes)
                with self._adding:
                    target = self._add_received(got, uid)
            except (ValueError, OSError, RuntimeError) as error:
                log.warning("the hand-off of process %d was refused: %s", pid, error)
                return
            log.info("target %d: %d pages of process %d", target.id, target.pages, got.pid)

    def _add_received(self, got: handoff.Handoff, uid: int) -> Target:
        with got.completion or contextlib.nullcontext():
            length = sum(region.length for region in got.regions)
            total, limit = self._targets.length() + length, self._options.max_total_bytes
            try:
                if total > limit:
                    raise ValueError(f"all targets would have {total} bytes; --max-total-bytes permits {limit}")
                target = self._manager.add(
                    got.uffd,
                    got.regions,
                    pid=got.pid,
                    guard=self._options.guard,
                    completion=got.completion,
                    again=got.again,
                    trust=self._options.trust if got.again else None,
                )
            except (ValueError, OSError, RuntimeError):
                _poison_refused(got)
                raise
        self._add(target, uid if got.uid is None else got.uid, length)
        return target

    def _answer(self, connection: socket.socket) -> None:
        control.answer_one(connection, {"status": self._tell_status, "replace": self._hand_over})

    def _tell_status(self, connection: socket.socket) -> None:
        control.answer(connection, self._status())

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "since": self._began,
            "socket": str(self._options.socket),
            "image": str(self._options.image),
            "guard": self._options.guard,
            **self._targets.status(),
        }

    def _hand_over(self, connection: socket.socket) -> None:
        """Leave the sockets to the next daemon, and the targets to the guard, which hands them over."""
        if self._options.guard != "manager":
            raise control.RequestError(
                f"this daemon serves with --guard {self._options.guard or 'none'}, so no other can take over: start it "
                "with --guard manager"
            )
        self._reception.finish()
        log.info("another daemon takes over")
        control.answer(connection, {"pid": os.getpid()}, [self._listener.fileno(), self._requests.fileno()])
        _leave()

    def _end(self) -> int:
        """Do what ``--on-stop`` says about what is missing."""
        notify("STOPPING=1")
        on_stop = self._options.on_stop
        log.info("stopping: %s %d targets", on_stop, len(self._targets.all()))
        if on_stop == "hand-over":
            pid = os.getpid()
            log.info("they wait for another daemon: start it with --take-over %d. Where none will come, "
                     "pyuffd.give_up(%d) poisons what they miss", pid, pid)  # fmt: skip
            _leave()
        if not self._options.worker:  # the supervisor's
            for path in (self._options.socket, control.control_path(self._options.socket)):
                sockets.remove(path)
            owner.forget(self._options.socket)
        self._loop.signals.clear()
        if on_stop == "fill":
            self._fill_all()
        for target in self._targets.all():
            _poison(target)
        self._manager.close()
        self._targets.look()
        return 0

    def _fill_all(self) -> None:
        """Fill for as long as is permitted; a second signal ends it."""
        deadline = time.monotonic() + self._options.stop_timeout
        left = self._targets.all()
        for target in left:
            target.fill()
        while left and time.monotonic() < deadline and not self._loop.signals:
            left = [target for target in left if not target.wait(0.05, progress=False)]


def _poison_refused(got: handoff.Handoff) -> None:
    """Nobody will serve this memory, and it would read as zeros."""
    for region in got.regions:
        with contextlib.suppress(OSError):  # it is not registered, or this kernel cannot poison
            got.uffd.poison(region.start, region.length)


def _poison(target: Target) -> None:
    try:
        target.close(missing="poison" if target.missing_pages else "fill")
    except (MissingPagesError, UnsupportedError, RuntimeError) as error:
        log.error("target %d: %s", target.id, error)


def _leave() -> None:
    """End without letting go of any target: what is left is the guard's."""
    logging.shutdown()
    os._exit(0)


def make_sockets(options: Options) -> tuple[socket.socket, socket.socket]:
    """Listen for targets and for requests.

    Raises:
        AddressError: See ``sockets.listen_at()``.
    """
    others = bool(options.allow - {os.geteuid()})
    listener = sockets.listen_at(options.socket, open_to_others=others)
    try:
        return listener, sockets.listen_at(control.control_path(options.socket), open_to_others=False)
    except OSError:
        listener.close()
        sockets.remove(options.socket)
        raise


def start_daemon(options: Options, *more: str, descriptors: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    """Start a daemon of the same command line, in a process of its own."""
    command = [sys.executable, "-m", "pyuffd", "serve", "image", *options.words(), *more]
    return subprocess.Popen(command, pass_fds=descriptors)
