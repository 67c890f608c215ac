"""The options of both daemons that CRIU's have, too: where they log, and how they tell that they listen."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_LEVELS = [logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG]


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the option of the images."""
    parser.add_argument("-D", "--images-dir", type=Path, default=Path(), metavar="DIR", help="of images (default: .)")


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("-W", "--work-dir", type=Path, metavar="DIR", help="of sockets, log and pidfile (default: that "
                        "of the images)")  # fmt: skip
    parser.add_argument("-o", "--log-file", type=Path, metavar="FILE", help="in the work directory (default: stderr)")
    parser.add_argument(
        "-v", "--verbosity", nargs="?", type=_verbosity, const=3, default=3, metavar="NUM",
        help="-v1 errors, -v2 warnings, -v3 what is served (default), -v4 more",
    )  # fmt: skip
    parser.add_argument("--pidfile", type=Path, metavar="FILE", help="write the daemon's pid into this file")
    parser.add_argument("--status-fd", type=int, metavar="FD", help="write a zero byte to it when the daemon listens")
    parser.add_argument("-d", "--daemon", action="store_true", help="go to the background when the daemon listens")


def begin_log(parsed: Any) -> None:
    """Log as the options say.

    Raises:
        ValueError: The file cannot be written.
    """
    work = parsed.images_dir if parsed.work_dir is None else parsed.work_dir
    level = _LEVELS[min(parsed.verbosity, len(_LEVELS) - 1)]
    logging.basicConfig(level=level, format=LOG_FORMAT, handlers=[_handler(work, parsed.log_file)])
    logging.getLogger("pyuffd.criu").setLevel(level)
    if level > logging.DEBUG:  # the daemon tells of each task itself
        logging.getLogger("pyuffd").setLevel(max(level, logging.WARNING))


def _handler(work: Path, log_file: Path | None) -> logging.Handler:
    if log_file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        return logging.FileHandler(work / log_file)
    except OSError as error:
        raise ValueError(f"--log-file {work / log_file} cannot be written: {error.strerror}") from None


def _verbosity(text: str) -> int:
    """Return the number of ``-v4``, or of ``-vvvv``."""
    if set(text) == {"v"}:
        return len(text) + 1
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no number: give -v0 to -v4, or -vvvv")
    return int(text)
