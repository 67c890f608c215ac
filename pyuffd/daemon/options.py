"""The command lines of daemons."""

import argparse
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

OnStop = Literal["fill", "hand-over", "poison"]


@dataclass(frozen=True)
class Options:
    """How a daemon serves.

    Attributes:
        socket: The path at which targets connect.
        image: The path of the file that their memory is filled from.
        fill: Whether memory is filled at once, or only what is touched is loaded.
        handlers: Threads that serve faults.
        fillers: Threads that fill.
        guard: What happens to the targets if the daemon dies; see ``ServeOptions``.
        allow: The users whose processes may connect.
        on_stop: What SIGTERM does about missing pages.
        stop_timeout: Seconds that filling may take at SIGTERM; what is missing then is poisoned.
        supervise: Whether a second process starts another daemon after a crash.
        restart_limit: How many crashes within ``restart_window`` seconds end the supervision.
        restart_window: See ``restart_limit``.
        replace: Whether to take over from the daemon that runs.
        worker: Of a supervised daemon: the descriptors of its listening sockets.
        take_over: The pids of daemons whose targets are taken over.
        wait_limit: How many seconds targets wait for another daemon before what they miss is poisoned; None waits
            without a limit.
        trust: Whether targets that another manager has served before are taken by their pagemap; see ``ServeOptions``.
        max_bytes: How much memory one target may have.
        max_total_bytes: How much memory all targets together may have.
    """

    socket: Path
    image: Path
    fill: bool
    handlers: int
    fillers: int
    guard: Literal["poison", "manager"] | None
    allow: frozenset[int]
    on_stop: OnStop
    stop_timeout: float
    supervise: bool
    restart_limit: int
    restart_window: float
    replace: bool
    worker: tuple[int, int] | None
    take_over: tuple[int, ...]
    wait_limit: float | None
    trust: Literal["pagemap"] | None
    max_bytes: int
    max_total_bytes: int

    def words(self) -> list[str]:
        """The command line of another daemon that serves as this one does."""
        words = ["--socket", str(self.socket), "--image", str(self.image)]
        words += ["--handlers", str(self.handlers), "--fillers", str(self.fillers)]
        words += ["--guard", self.guard or "none", "--max-bytes", str(self.max_bytes)]
        words += ["--max-total-bytes", str(self.max_total_bytes)]
        words += ["--on-stop", self.on_stop, "--stop-timeout", str(self.stop_timeout)]
        words += ["--trust", self.trust] if self.trust else []
        words += ["--wait-limit", str(self.wait_limit)] if self.wait_limit else []
        words += [word for uid in sorted(self.allow) for word in ("--allow-uid", str(uid))]
        return words + ["--no-fill"] * (not self.fill)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``pyuffd serve image``."""
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH", help="where targets connect")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="what their memory is filled from")
    parser.add_argument("--no-fill", action="store_true", help="load only what is touched")
    parser.add_argument("--handlers", type=count, default=2, metavar="N", help="threads for faults (default: 2)")
    parser.add_argument("--fillers", type=count, default=1, metavar="N", help="threads that fill (default: 1)")
    parser.add_argument(
        "--guard", choices=["poison", "manager", "none"], default="poison",
        help="what happens if this daemon dies: missing pages are poisoned, wait for another daemon, or read as zeros "
        "(default: poison; manager with --supervise)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-uid", type=_user, action="append", metavar="USER", help="a user whose processes may connect (default: "
        "this user alone; give it once for each)",
    )  # fmt: skip
    parser.add_argument(
        "--wait-limit", type=_seconds, metavar="SECONDS",
        help="for --guard manager: how long targets wait for another daemon; then what they miss is poisoned "
        "(default: 60 with --supervise, else for ever)",
    )  # fmt: skip
    parser.add_argument(
        "--trust", choices=["pagemap"],
        help="take targets with REMOVE events that another manager has served before, and install every page that is "
        "missing: pages that they have dropped get their old bytes",
    )  # fmt: skip
    parser.add_argument("--max-bytes", type=count, default=1 << 40, metavar="N", help="of one target (default: 2**40)")
    parser.add_argument(
        "--max-total-bytes", type=count, default=1 << 42, metavar="N", help="of all targets together (default: 2**42)"
    )
    parser.add_argument(
        "--on-stop", choices=["fill", "hand-over", "poison"], default="fill",
        help="what SIGTERM does about missing pages: install them, leave them to the next daemon, or poison them",
    )  # fmt: skip
    parser.add_argument(
        "--stop-timeout", type=_seconds, default=30.0, metavar="SECONDS",
        help="for --on-stop fill: what is missing after that is poisoned (default: 30)",
    )  # fmt: skip
    parser.add_argument("--supervise", action="store_true", help="start another daemon after a crash, which goes on")
    parser.add_argument(
        "--restart-limit", type=count, default=5, metavar="N", help="give up after so many crashes (default: 5)"
    )
    parser.add_argument(
        "--restart-window", type=_seconds, default=60.0, metavar="SECONDS", help="within so long (default: 60)"
    )
    parser.add_argument("--replace", action="store_true", help="take over from the daemon at --socket, without a pause")
    parser.add_argument("--worker", type=_descriptors, help=argparse.SUPPRESS)
    parser.add_argument(
        "--take-over", type=int, action="append", default=[], metavar="PID",
        help="go on with the targets of a daemon that has died or handed over; once for each",
    )  # fmt: skip


def options_of(parsed: Any) -> Options:
    """Make the options of what was parsed."""
    guard: Literal["poison", "manager", "none"] = parsed.guard
    if parsed.supervise or parsed.worker or parsed.on_stop == "hand-over":
        guard = "manager"
    return Options(
        socket=parsed.socket.absolute(),
        image=parsed.image.absolute(),
        fill=not parsed.no_fill,
        handlers=parsed.handlers,
        fillers=parsed.fillers,
        guard=None if guard == "none" else guard,
        allow=frozenset(parsed.allow_uid or [os.geteuid()]),
        on_stop=parsed.on_stop,
        stop_timeout=parsed.stop_timeout,
        supervise=parsed.supervise,
        restart_limit=parsed.restart_limit,
        restart_window=parsed.restart_window,
        replace=parsed.replace,
        worker=parsed.worker,
        take_over=tuple(parsed.take_over),
        wait_limit=parsed.wait_limit or (60.0 if parsed.supervise else None),
        trust=parsed.trust,
        max_bytes=parsed.max_bytes,
        max_total_bytes=parsed.max_total_bytes,
    )


def count(text: str) -> int:
    """Return a number that is at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return number


def _user(text: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no user {text!r}") from None


def _descriptors(text: str) -> tuple[int, int]:
    listener, control = text.split(",")
    return int(listener), int(control)
