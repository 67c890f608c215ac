"""The command line of ``pyuffd serve criu``. Options that ``criu lazy-pages`` has, too, have its names."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pyuffd.daemon.criu.ignored import add_ignored, tell_ignored
from pyuffd.daemon.logs import add_images, add_log_arguments
from pyuffd.daemon.options import count
from pyuffd.daemon.pages.address import PageServer, add_address, address_of

Fill = Literal["eager", "idle", "never"]


@dataclass(frozen=True)
class Options:
    """How a restore is served.

    Attributes:
        images: The folder of the images.
        work: The folder in which ``lazy-pages.socket`` lies.
        page_server: Where pages are that no image has; None if there is no page server.
        fill: What is installed besides pages that are touched, after the restore: the rest at once (``eager``), the
            rest while no fault waits (``idle``), or nothing (``never``).
        handlers: Threads that serve faults.
        fillers: Threads that fill.
        log_json: The file of events for programs.
        pidfile: A file into which the daemon's pid is written.
        status_fd: A descriptor to which a byte of zero is written when the daemon listens.
        background: Whether to leave the terminal.
    """

    images: Path
    work: Path
    page_server: PageServer | None
    fill: Fill
    handlers: int
    fillers: int
    log_json: Path | None
    pidfile: Path | None
    status_fd: int | None
    background: bool

    @property
    def socket(self) -> Path:
        """Where ``criu restore --lazy-pages`` connects."""
        return self.work / "lazy-pages.socket"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_images(parser)
    add_address(parser)
    parser.add_argument(
        "--fill", choices=get_args(Fill), default="eager",
        help="what is installed after the restore besides pages that are touched: the rest, the rest while no fault "
        "waits, or nothing (default: eager)",
    )  # fmt: skip
    parser.add_argument("--handlers", type=count, default=2, metavar="N", help="threads for faults (default: 2)")
    parser.add_argument("--fillers", type=count, default=1, metavar="N", help="threads that fill (default: 1)")
    parser.add_argument("--log-json", type=Path, metavar="FILE", help="add a line of JSON for each event to this file")
    add_log_arguments(parser)
    add_ignored(parser)


def options_of(parsed: Any) -> Options:
    """Make the options of what was parsed. Paths of log and pidfile begin in the work directory, as CRIU's do.

    Raises:
        ValueError: An option is missing.
    """
    tell_ignored(parsed)
    images = parsed.images_dir.absolute()
    work = images if parsed.work_dir is None else parsed.work_dir.absolute()

    def in_work(path: Path | None) -> Path | None:
        return None if path is None else work / path

    return Options(
        images=images,
        work=work,
        page_server=address_of(parsed),
        fill=parsed.fill,
        handlers=parsed.handlers,
        fillers=parsed.fillers,
        log_json=in_work(parsed.log_json),
        pidfile=in_work(parsed.pidfile),
        status_fd=parsed.status_fd,
        background=parsed.daemon,
    )
