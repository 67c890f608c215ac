"""The command line of ``pyuffd serve criu-pages``. Options that ``criu page-server`` has, too, have its names."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyuffd.daemon.logs import add_images, add_log_arguments
from pyuffd.daemon.options import count
from pyuffd.daemon.pages.address import Tls, add_tls, port, tls_of


@dataclass(frozen=True)
class Options:
    """How pages are served.

    Attributes:
        images: The folder of the images.
        host: The address at which clients connect.
        port: Their port; 0 lets the kernel choose one.
        connections: How many there may be at once.
        tls: None for connections in the clear.
        pidfile: A file into which the daemon's pid is written.
        status_fd: A descriptor to which a byte of zero is written when the daemon listens.
        background: Whether to leave the terminal.
    """

    images: Path
    host: str
    port: int
    connections: int
    tls: Tls | None
    pidfile: Path | None
    status_fd: int | None
    background: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_images(parser)
    parser.add_argument("--address", default="127.0.0.1", metavar="HOST", help="where to listen (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=port, default=0, metavar="PORT", help="(default: the kernel chooses; the log tells)"
    )
    parser.add_argument("--connections", type=count, default=64, metavar="N", help="at once (default: 64)")
    add_tls(parser)
    add_log_arguments(parser)


def options_of(parsed: Any) -> Options:
    """Make the options of what was parsed."""
    images = parsed.images_dir.absolute()
    work = images if parsed.work_dir is None else parsed.work_dir.absolute()
    return Options(
        images=images,
        host=parsed.address,
        port=parsed.port,
        connections=parsed.connections,
        tls=tls_of(parsed),
        pidfile=None if parsed.pidfile is None else work / parsed.pidfile,
        status_fd=parsed.status_fd,
        background=parsed.daemon,
    )
