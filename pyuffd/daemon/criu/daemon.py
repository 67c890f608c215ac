"""``pyuffd serve criu``: serves the tasks of one lazy restore, and ends when the last page is in."""

import logging
import os
import socket
import sys
import time
from typing import Any, NoReturn

from pyuffd._core import Region, Regions
from pyuffd._manager import Manager
from pyuffd._progress import page_bar
from pyuffd._target import Target
from pyuffd._version import __version__
from pyuffd.criu.images import Images, Task
from pyuffd.daemon import control, sockets
from pyuffd.daemon.background import Background, stopping_signals, tell_ready
from pyuffd.daemon.criu.journal import Journal
from pyuffd.daemon.criu.memory import regions_of
from pyuffd.daemon.criu.options import Options
from pyuffd.daemon.criu.records import RestoreError, TaskRecord
from pyuffd.daemon.criu.restore import Restore
from pyuffd.daemon.criu.tasks import Restored, RestoredTasks
from pyuffd.daemon.criu.unraisable import OncePerCause
from pyuffd.daemon.limits import allow_many_descriptors, check_enough
from pyuffd.daemon.loop import Loop
from pyuffd.daemon.notify import notify
from pyuffd.daemon.pages.client import PageClient

log = logging.getLogger("pyuffd.criu")

_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 0.02
_STOP_SECONDS = 30.0


class LazyPages:
    """The daemon of one restore.

    The main thread has the loop: the restore's connection, signals, requests, and the look at who has ended. Faults are
    served by the threads of the manager, from the moment in which a task is added.

    Args:
        options: How to serve.

    Raises:
        ImageError: The images are damaged.
        OSError: A file cannot be opened.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._images = Images(options.images)
        allow_many_descriptors()
        check_enough(sum(task.has_memory for task in self._images.tasks.values()))
        self._pages = PageClient(options.page_server, self._images) if options.page_server else None
        # Before the first task comes: its faults wait for all that is done then.
        self._regions = {pid: self._regions_of(task) for pid, task in self._images.tasks.items() if task.has_memory}
        self._background = Background() if options.background else None
        self._loop = Loop(*stopping_signals())
        self._journal = Journal(options.log_json)
        self._tasks = RestoredTasks(self._journal)
        self._restore = Restore(self._loop, self._add, self._begin_fill)
        self._began = time.time()

    def run(self) -> int:
        """Serve the restore.

        Returns:
            The exit code: 0 if every page of every task was supplied.
        """
        self._manager = Manager(self._options.handlers, self._options.fillers)
        self._manager.start_guard()
        sys.unraisablehook = OncePerCause()
        with self._loop:
            listener, requests = self._listen()
            try:
                with listener, requests:
                    self._loop.welcome(listener, self._restore.admit)
                    self._loop.welcome(requests, self._answer)
                    self._tell_ready()
                    code = self._serve()
            except Exception as error:
                self._remove_sockets()
                if not self._restore.begun:
                    raise
                self._abandon(error)
            finally:
                self._remove_sockets()
        if self._pages:
            self._pages.close()
        self._manager.close()
        self._journal.write("finished", {"code": code})
        self._journal.close()
        return code

    def _listen(self) -> tuple[socket.socket, socket.socket]:
        """Listen. The control socket is first: another daemon that has it does not take the look for a restore."""
        path = self._options.socket
        requests = sockets.listen_at(control.control_path(path), open_to_others=False)
        try:
            listener = sockets.listen_at(path, open_to_others=False)
            # Tasks tell their pid inside the restored namespace; the kernel tells the other one.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            return listener, requests
        except OSError:
            requests.close()
            sockets.remove(control.control_path(path))
            raise

    def _remove_sockets(self) -> None:
        sockets.remove(self._options.socket)
        sockets.remove(control.control_path(self._options.socket))

    def _tell_ready(self) -> None:
        options, totals = self._options, self._images.totals
        log.info("tasks: %d, lazy pages: %d; waiting for criu restore --lazy-pages at %s",
                 len(self._images.tasks), totals.lazy // os.sysconf("SC_PAGESIZE"), options.socket)  # fmt: skip
        tell_ready(options.pidfile, options.status_fd)
        notify("READY=1", f"MAINPID={os.getpid()}")
        if self._background:
            self._background.ready()

    def _serve(self) -> int:
        """Serve until all tasks have ended, or a signal came."""
        with page_bar(self._images.totals.lazy // os.sysconf("SC_PAGESIZE"), None) as tell:
            while not self._loop.signals:
                self._turn()
                for child in self._tasks.look():
                    self._fill(child)
                tell(self._tasks.installed_pages())
                if self._restore.finished and not self._tasks.live:
                    log.info("all tasks are complete")
                    return int(self._tasks.failed)
        return self._stop()

    def _turn(self) -> None:
        """Wait for what comes next: before the marker the restore's messages, then the end of a target."""
        live = self._tasks.live
        if not self._restore.finished or not live:
            self._loop.turn(_LOOK_SECONDS)
        else:
            self._loop.turn(0.0)
            live[0].wait(_WAIT_SECONDS, progress=False)

    def _add(self, record: TaskRecord) -> None:
        task = self._images.tasks.get(record.pid)
        if task is None:
            raise RestoreError(f"task {record.pid} is not in the images of {self._options.images}")
        if record.pid in self._tasks.pids:
            raise RestoreError(f"task {record.pid} came twice")
        self._tasks.pids.add(record.pid)
        if record.uffd is None:
            return
        regions = self._regions.pop(record.pid, None)
        if regions is None:
            raise RestoreError(f"task {record.pid} has sent a userfaultfd, and has no memory in the images")
        # The task registers its mappings later, and what it never touched is in no image.
        try:
            target = self._manager.add(
                record.uffd, regions, pid=self._real_pid(record), registered=False, beyond="zero"
            )
        except (OSError, ValueError) as error:
            raise RestoreError(f"task {record.pid} cannot be served: {error}") from error
        self._tasks.add(Restored(target, record.pid, task.comm))

    def _regions_of(self, task: Task) -> Regions:
        return regions_of(task, self._pages.source(task.pid) if self._pages else None)

    def _real_pid(self, record: TaskRecord) -> int:
        if record.real_pid is None:
            raise RestoreError(
                f"the kernel does not tell the process of task {record.pid}: run the daemon in the pid namespace of "
                "criu restore"
            )
        return record.real_pid

    def _begin_fill(self) -> None:
        """All tasks have registered their memory, and go on."""
        log.info("criu restore has finished; tasks: %d", len(self._tasks.pids))
        if absent := self._images.tasks.keys() - self._tasks.pids:
            log.warning("tasks of the images that were not restored: %s", sorted(absent))
        self._journal.write("restored", {"tasks": len(self._tasks.pids)})
        for target in self._tasks.restored:
            # Without a look: a task may have unmapped memory since. Its fork children know it, too.
            target.registered(check=False)
        for target in self._tasks.live:
            self._fill(target)

    def _fill(self, target: Target) -> None:
        if self._options.fill != "never":
            target.fill(when_idle=self._options.fill == "idle")

    def _answer(self, connection: socket.socket) -> None:
        control.answer_one(connection, {"status": self._tell_status})

    def _tell_status(self, connection: socket.socket) -> None:
        control.answer(connection, self._status())

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "since": self._began,
            "socket": str(self._options.socket),
            "image": str(self._options.images),
            "guard": "poison",
            **self._tasks.status(),
        }

    def _stop(self) -> int:
        """A signal came: install what is missing for as long as is permitted, and poison the rest."""
        self._restore.receive()  # the marker may have come
        if not self._restore.finished:
            raise RestoreError("stopped before criu restore had finished")
        log.info("stopping: filling %d tasks", len(self._tasks.live))
        self._loop.signals.clear()
        deadline = time.monotonic() + _STOP_SECONDS
        for target in self._tasks.live:
            target.fill()
        while self._tasks.live and time.monotonic() < deadline and not self._loop.signals:
            self._turn()
            for child in self._tasks.look():
                child.fill()
        for target in self._tasks.live:
            target.close(missing="poison")
        self._tasks.look()
        return int(self._tasks.failed)

    def _abandon(self, error: Exception) -> NoReturn:
        """End without letting go of any task. The guard poisons what they touch: none sleeps, and none reads zeros.

        The restore hears at once that it has failed. What it has sent by then is given to the guard, too.
        """
        log.error("%s", error, exc_info=None if isinstance(error, RestoreError) else error)
        self._journal.write("failed", {"why": str(error)})
        for record in self._restore.cut():
            self._leave_to_guard(record)
        if self._pages:
            self._pages.give_up()
        logging.shutdown()
        os._exit(1)

    def _leave_to_guard(self, record: TaskRecord) -> None:
        if record.uffd is None or record.real_pid is None:
            return
        regions: Regions | list[Region] = self._regions.pop(record.pid, [])
        try:
            self._manager.add(record.uffd, regions, pid=record.real_pid, registered=False, beyond="poison")
        except (OSError, ValueError, RuntimeError) as error:
            log.error("task %d: what it misses may read as zeros: %s", record.pid, error)
