"""The help of every command, as docs/reference/command-line.md shows it."""

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "reference" / "command-line.md"

_HEAD = """# Command line

The command `pyuffd` comes with the package; `python -m pyuffd` is the same.
"""
_COMMANDS = {
    "probe": """`pyuffd probe` exits with 0 where something can be served, and with 1 where nothing can. What stands in
the way is told with the command that changes it ([permissions](../how-to/permissions.md)).""",
    "serve image": """`pyuffd serve image` runs a daemon ([run a daemon](../how-to/daemon.md)). It exits with 0 after
SIGTERM, and with 1 where it cannot begin or its supervision has given up.""",
    "serve criu": """`pyuffd serve criu` is the manager of `criu restore --lazy-pages`
([restore with CRIU](../how-to/criu-restore.md)). It exits with 0 when all pages of all tasks are in, and with 1 if a
page could not be supplied or the restore fails.""",
    "serve criu-pages": """`pyuffd serve criu-pages` sends the pages of images to other hosts
([between two hosts](../how-to/criu-restore.md#between-two-hosts)). It exits with 0 after SIGTERM.""",
    "images": """`pyuffd images` exits with 1 where something is wrong with the images
([look into a checkpoint](../how-to/criu-images.md)). It needs more packages: `pip install 'pyuffd[criu]'`.""",
    "status": """`pyuffd status` exits with 1 where no daemon answers.""",
    "bench": """`pyuffd bench` needs more packages: `pip install 'pyuffd[bench]'`. The [gallery](../gallery.md) shows
what it draws.""",
}


def page() -> str:
    """The whole page."""
    parts = [_HEAD, _block()]
    for name, about in _COMMANDS.items():
        parts += [f"\n## pyuffd {name}\n\n{about}\n", _block(*name.split())]
    return "\n".join(parts)


def _block(*command: str) -> str:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pyuffd", *command, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    line = " ".join(["pyuffd", *command, "--help"])
    return f"```console\n$ {line}\n{done.stdout}```\n"
