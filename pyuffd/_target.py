"""A target: one address space that a manager serves, until it is let go."""

import os
import time
import warnings
from types import TracebackType
from typing import Literal, get_args

from pyuffd import _core, _exit
from pyuffd._arguments import check_flag, check_seconds, check_word
from pyuffd._core import Userfaultfd
from pyuffd._ending_report import EndingReport, to_report
from pyuffd._inline import check_sigbus
from pyuffd._log import logger
from pyuffd._progress import page_bar
from pyuffd._stats import Stats, to_stats

Missing = Literal["raise", "fill", "zero", "poison"]


class Target:
    """One address space whose memory is managed, made by ``serve()`` or ``Manager.add()``.

    It ends by itself as soon as nothing is missing, unless its ending is ``"keep-open"`` or a region of it notes writes
    (``mode="missing+wp"``). As a context manager it fills what is missing when the block is left, after an exception
    too. Only what cannot be filled is poisoned.
    """

    def __init__(
        self, core: _core.Target, *, owns_manager: bool, owns_memory: bool = False, is_child: bool = False
    ) -> None:
        self._core = core
        self._is_child = is_child
        self._children: dict[int, Target] = {}
        self._owns_manager = owns_manager
        self._owns_memory = owns_memory
        self._report: EndingReport | None = None
        self._stopped: Userfaultfd | None = None
        self._closed = False
        self._owner = os.getpid()
        _exit.live.add(self)
        if not is_child:
            logger.info("target %d: added: %d pages of %s%s", self.id, self.pages, self._whose(), self._limits())

    @property
    def id(self) -> int:
        """Its number in this process, from 1 on, by which log messages name it."""
        return self._core.id

    @property
    def pid(self) -> int | None:
        """The process whose memory it is; None for a fork child, of which the kernel does not tell."""
        return self._core.pid

    @property
    def user_mode_only(self) -> bool:
        """Whether system calls on missing pages fail with EFAULT.

        So it is where its userfaultfd was opened by a user who may not serve kernel accesses. Of a userfaultfd that
        was received the kernel does not tell: then this is False.
        """
        return self._core.user_mode_only

    @property
    def report(self) -> EndingReport | None:
        """How it was let go; None until it is."""
        return self._report or (to_report(self._core.close("raise")) if self._core.ended else None)

    @property
    def pages(self) -> int:
        """How many pages are managed."""
        return self._core.pages

    @property
    def missing_pages(self) -> int:
        """How many of them are not installed yet."""
        return self._core.missing_pages

    @property
    def ended(self) -> bool:
        """Whether it was let go."""
        return self._core.ended

    @property
    def children(self) -> "list[Target]":
        """Fork children of the target: those that are served, and the last 256 that ended.

        Userfaultfds with EVENT_FORK have them. A child is a target of its own and goes on as its parent: the same pages
        are missing, and the same ending is asked for. The kernel does not tell its pid, so its ``verified`` is None.
        Left alone it ends as every target does; what it misses when the manager ends is filled. In shared memory it
        reads without a fault what its parent has: such a page counts as missing until ``fill()``.
        """
        known = self._children
        self._children = {
            core.id: known.get(core.id) or Target(core, owns_manager=self._owns_manager, is_child=True)
            for core in self._core.children()
        }
        return list(self._children.values())

    def written(self, reset: bool = False) -> list[tuple[int, int]]:
        """Return what was written to in regions of mode ``"missing+wp"``, or dropped, if events tell of that.

        Args:
            reset: Forget it, and note the next write to each of these pages again.

        Returns:
            (start, length) in bytes, by address; whole pages.

        Raises:
            RuntimeError: No region has that mode.
        """
        check_flag("reset", reset)
        return self._core.written(reset)

    def fill(self) -> None:
        """Start to install, in the background, what nobody has touched yet; returns at once.

        Raises:
            RuntimeError: After ``stop()``.
        """
        check_sigbus()
        if self._report is None:
            self._core.fill()

    def registered(self) -> None:
        """Tell that the target's owner has registered the regions by now, for ``registered=False``; once.

        From now on a page that cannot be installed since it is not registered counts as absent. A fill that was asked
        for meanwhile begins.

        Raises:
            ValueError: A region is not registered, as the target's smaps shows.
            RuntimeError: It was registered when serving began, or this was called before.
        """
        self._core.registered()

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> bool:
        """Wait until nothing is missing and the target has ended (keep-open: until nothing is missing).

        Pages arrive as they are touched; call ``fill()`` first to have the others come too. Ctrl-C interrupts the wait
        and nothing else.

        Args:
            timeout: Seconds; None waits without end.
            progress: Show a progress bar on stderr; None shows it on a terminal and in a notebook.

        Returns:
            False on timeout. True also where the target's address space is gone: its report says what was missing.

        Raises:
            ValueError: The timeout is NaN.
            RuntimeError: After ``stop()``.
        """
        check_sigbus()
        check_seconds("timeout", timeout)
        if self._stopped is not None:
            raise RuntimeError("the target was stopped: nobody serves it, so nothing will come")
        deadline = None if timeout is None else time.monotonic() + timeout
        with page_bar(self.pages, progress) as tell:
            while True:
                left = 0.1 if deadline is None else min(0.1, deadline - time.monotonic())
                done = self._core.wait(max(left, 0.0))
                tell(self.pages - self.missing_pages)
                if done or (deadline is not None and time.monotonic() >= deadline):
                    return done

    def stats(self) -> Stats:
        """Return the counters of this moment."""
        check_sigbus()
        return to_stats(self._core.stats())

    def close(self, missing: Missing = "raise") -> EndingReport:
        """Let go of the target, and wait for that; a target that has ended returns its stored report.

        Args:
            missing: What to do about missing pages, which would read as zeros: ``"raise"`` refuses and serves on;
                ``"fill"`` installs them first; ``"poison"`` has their touchers get SIGBUS (Linux 6.6); ``"zero"`` says
                that zeros are right. For the fork children of a target of ``serve()``, too; ``"raise"`` fills them.

        Returns:
            The report. Under keep-open, and where pages can be neither supplied nor poisoned, the userfaultfd stays
            open, ``seconds`` is None, and the manager serves on.

        Raises:
            MissingPagesError: Pages are missing, ``missing`` is ``"raise"``, and the ending is not keep-open.
            UnsupportedError: This kernel cannot poison.
            RuntimeError: After ``stop()``.
        """
        check_word("missing", missing, get_args(Missing))
        if self._report is not None:
            return self._report
        if self._stopped is not None:
            raise RuntimeError("the target was stopped: its userfaultfd is yours again")
        report = to_report(self._core.close(missing))
        self._closed = True
        if self._core.ended:
            if self._owns_manager and missing in ("poison", "zero"):
                self._close_children(missing)
            self._finish(report)
        else:
            _exit.kept_open.add(self)
        return report

    def _close_children(self, missing: Missing) -> None:
        for child in self.children:
            child.close(missing)
            child._close_children(missing)

    def stop(self) -> Userfaultfd:
        """Stop serving a keep-open target: what is missing stays missing and its touchers sleep.

        Returns:
            The userfaultfd, still open, for whoever serves it next. This target holds it too; when neither does, and no
            other process, the kernel releases it and missing pages read as zeros.

        Raises:
            RuntimeError: The ending is not ``"keep-open"``, it is not served any more, or its userfaultfd has event
                features: what they told would be lost.
        """
        self._stopped = self._core.stop()
        self._closed = True
        _exit.kept_open.discard(self)
        if self._owns_manager:
            self._release_manager()
        return self._stopped

    def discard(self) -> None:
        """Let go at once, whatever is missing: for memory that nobody can touch any more."""
        self._closed = True
        if self._report is None and self._stopped is None:
            self._core.discard()
            self._finish(to_report(self._core.close("raise")))

    def _finish(self, report: EndingReport) -> None:
        self._report = report
        _exit.kept_open.discard(self)
        if self._owns_manager and not self._is_child:
            self._release_manager()

    def _release_manager(self) -> None:
        """Let the manager end, once the fork children's have let go too: it fills what those miss."""
        for child in self._children.values():
            child._release_manager()
        self._core.release_manager()

    def __enter__(self) -> "Target":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._closed:
            self.close(missing="fill")

    def __del__(self) -> None:
        # An interpreter that failed in __init__ has no _closed.
        if getattr(self, "_closed", True) or self._owns_memory or self._forked() or self._is_child:
            return
        if not self.ended:
            warnings.warn(
                f"{self!r} was never closed; its {self.missing_pages} missing pages are filled now",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        self.close(missing="fill")

    def _forked(self) -> bool:
        # Not by the live targets: the collector of cycles empties weak references before it calls __del__.
        return self._owner != os.getpid()

    def __repr__(self) -> str:
        if self._forked():
            return "<pyuffd.Target of the process that this one was forked from>"
        state = "ended" if self.ended else "stopped" if self._stopped else "serving"
        limits = "" if self.ended else self._limits()
        return (
            f"<pyuffd.Target {self.id} of {self._whose()}, {state}, "
            f"{self.missing_pages} of {self.pages} pages missing{limits}>"
        )

    def _whose(self) -> str:
        if self.pid is None:
            return "a fork child"
        return "this process" if self.pid == self._owner else f"process {self.pid}"

    def _limits(self) -> str:
        """Say what will fail."""
        return ", system calls on missing pages fail (user mode only)" if self.user_mode_only else ""
