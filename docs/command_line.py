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
    "bench": """`pyuffd bench` needs more packages: `pip install 'pyuffd[bench]'`. The [gallery](../gallery.md) shows
what it draws.""",
}


def page() -> str:
    """The whole page."""
    parts = [_HEAD, _block()]
    for name, about in _COMMANDS.items():
        parts += [f"\n## pyuffd {name}\n\n{about}\n", _block(name)]
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
