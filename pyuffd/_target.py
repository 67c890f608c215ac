"""A target: one address space that a manager serves."""

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
from pyuffd._source_error import SourceError, source_errors
from pyuffd._stats import Stats, to_stats

Missing = Literal["raise", "fill", "zero", "poison"]


class Target:
    """One address space whose memory a manager serves. ``serve()`` and ``Manager.add()`` make targets.

    A target ends by itself when no page is missing, unless its ending is ``"keep-open"`` or one of its regions tracks
    writes (``mode="missing+wp"``). Used as a context manager, it fills the missing pages when the block is left, also
    after an exception. pyuffd poisons the pages that cannot be filled.
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
        """The number of the target in this process, from 1 on. Log messages name the target by it."""
        return self._core.id

    @property
    def pid(self) -> int | None:
        """The process id of the target; None for a fork child, whose process id the kernel does not tell."""
        return self._core.pid

    @property
    def user_mode_only(self) -> bool:
        """Whether system calls on missing pages fail with EFAULT.

        They fail if a user without permission for kernel accesses opened the userfaultfd. The kernel does not tell this
        of a received userfaultfd, and the property is then False.
        """
        return self._core.user_mode_only

    @property
    def report(self) -> EndingReport | None:
        """How the target was let go; None while it is served."""
        return self._report or (to_report(self._core.close("raise")) if self._core.ended else None)

    @property
    def pages(self) -> int:
        """The number of managed pages."""
        return self._core.pages

    @property
    def missing_pages(self) -> int:
        """How many pages are not installed yet."""
        return self._core.missing_pages

    @property
    def ended(self) -> bool:
        """Whether the target was let go."""
        return self._core.ended

    @property
    def children(self) -> "list[Target]":
        """Fork children of the target: all that are served, and the last 256 that ended.

        Only a target whose userfaultfd has EVENT_FORK has children. A child is a target of its own. At the fork it has
        the missing pages and the ending of its parent. The kernel does not tell the process id of a child, and
        ``verified`` in its report is None. A child ends by itself as every target does. When the manager ends, the
        missing pages of a child are filled. In shared memory a child reads the pages of its parent without a fault.
        Such a page counts as missing until ``fill()``.
        """
        known = self._children
        self._children = {
            core.id: known.get(core.id) or Target(core, owns_manager=self._owns_manager, is_child=True)
            for core in self._core.children()
        }
        return list(self._children.values())

    @property
    def source_errors(self) -> list[SourceError]:
        """What the sources of the target could not supply, and why: the first 8 of such errors.

        ``report.poisoned`` lists all memory that is poisoned. A manager that takes the target over does not know the
        errors of the manager before it.
        """
        return source_errors(self._core)

    def written(self, reset: bool = False) -> list[tuple[int, int]]:
        """Return the memory that was written in regions of mode ``"missing+wp"``, or dropped, with event features.

        Args:
            reset: Whether to forget these pages, and to track the next write to each of them.

        Returns:
            (start, length) in bytes of whole pages, by address.

        Raises:
            RuntimeError: No region has the mode ``"missing+wp"``.
        """
        check_flag("reset", reset)
        return self._core.written(reset)

    def fill(self, *, when_idle: bool = False) -> None:
        """Start to install all missing pages in the background. Returns at once.

        Args:
            when_idle: Whether the fill rests while faults come: it goes on when none came for a millisecond. Otherwise
                it goes on beside faults, and gives way to each.

        Raises:
            RuntimeError: ``stop()`` was called before.
        """
        check_sigbus()
        check_flag("when_idle", when_idle)
        if self._report is None:
            self._core.fill(when_idle)

    def registered(self, *, check: bool = True) -> None:
        """Tell pyuffd that the target's owner has registered the regions. Call this once, after ``registered=False``.

        From now on a page counts as absent if it is not registered and cannot be installed. If ``fill()`` was called
        earlier, the fill begins now.

        Args:
            check: Whether pyuffd looks into the target's smaps. With False the caller knows that the memory was
                registered. The target may then have unmapped some of it since.

        Raises:
            ValueError: The target's smaps shows that a region is not registered.
            RuntimeError: The memory was registered when serving began, or this was called before.
        """
        check_flag("check", check)
        self._core.registered(check)

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> bool:
        """Wait until no page is missing and the target has ended (keep-open: until no page is missing).

        Pages load when they are touched. Call ``fill()`` first to load the other pages too. Ctrl-C interrupts only the
        wait.

        Args:
            timeout: Seconds; None waits without a limit.
            progress: Whether to show a progress bar on stderr; None shows it on a terminal and in a notebook.

        Returns:
            False after the timeout. True if the target is complete, or if its address space is gone. The report tells
            how many pages were missing.

        Raises:
            ValueError: The timeout is NaN.
            RuntimeError: ``stop()`` was called before.
        """
        check_sigbus()
        check_seconds("timeout", timeout)
        if self._stopped is not None:
            raise RuntimeError(
                "the target was stopped, so nobody installs pages: serve the userfaultfd that stop() returned"
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        with page_bar(self.pages, progress) as tell:
            while True:
                left = 0.1 if deadline is None else min(0.1, deadline - time.monotonic())
                done = self._core.wait(max(left, 0.0))
                tell(self.pages - self.missing_pages)
                if done or (deadline is not None and time.monotonic() >= deadline):
                    return done

    def stats(self) -> Stats:
        """Return the current counters."""
        check_sigbus()
        return to_stats(self._core.stats())

    def close(self, missing: Missing = "raise") -> EndingReport:
        """Let go of the target, and wait until this is done. A target that has ended returns its report.

        Args:
            missing: What to do about missing pages, which would read as zeros afterwards. ``"raise"`` refuses to close,
                and the target is still served. ``"fill"`` installs the pages first. ``"poison"`` poisons them: a touch
                is a SIGBUS (Linux 6.6). ``"zero"`` declares that zeros are correct. For a target of ``serve()`` this
                also applies to its fork children, except that ``"raise"`` fills their pages.

        Returns:
            The report. Under keep-open, or if a page can be neither supplied nor poisoned, the userfaultfd stays open,
            ``seconds`` is None, and the manager still serves the target.

        Raises:
            MissingPagesError: Pages are missing, ``missing`` is ``"raise"``, and the ending is not keep-open.
            UnsupportedError: This kernel cannot poison pages.
            RuntimeError: ``stop()`` was called before, or ``registered()`` must be called first.
        """
        check_word("missing", missing, get_args(Missing))
        if self._report is not None:
            return self._report
        if self._stopped is not None:
            raise RuntimeError("the target was stopped: close the userfaultfd that stop() returned")
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
        """Stop serving a keep-open target. Missing pages stay missing, and threads that touch them sleep.

        Returns:
            The open userfaultfd, for the next manager. This target holds the userfaultfd too. The kernel releases it,
            and missing pages read as zeros, when this target, the caller and every other process have closed it.

        Raises:
            RuntimeError: The ending is not ``"keep-open"``; the target is not served any more; or its userfaultfd has
                event features, and the next manager would not know the events of the past.
        """
        self._stopped = self._core.stop()
        self._closed = True
        _exit.kept_open.discard(self)
        if self._owns_manager:
            self._release_manager()
        return self._stopped

    def discard(self) -> None:
        """Let go of the target at once, although pages are missing: for memory that no thread can touch any more."""
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
        """Let the manager end when all fork children have released it, too. It fills their missing pages first."""
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
        # If __init__ failed, there is no _closed.
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
        # _exit.live cannot answer this: the garbage collector clears weak references before it calls __del__.
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
        """Say which accesses will fail."""
        return ", system calls on missing pages fail (user mode only)" if self.user_mode_only else ""
