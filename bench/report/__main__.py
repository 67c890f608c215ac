"""``python -m bench.report DIR``: the report of a run again, from its raw results alone; needs no extension."""

import argparse
import os
import sys
from pathlib import Path

from ..harness.records import RecordError
from .write import write


def main() -> int:
    """Write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="of bench --out")
    try:
        write(parser.parse_args().folder)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads; the report is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
    return 0


if __name__ == "__main__":
    sys.exit(main())
