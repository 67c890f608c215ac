"""Commands that a build runs, and what is told of those that fail."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_MOST_CHARACTERS = 4000


class WheelError(Exception):
    """A wheel that cannot be made, or that does not work."""


def run(command: Sequence[object], environment: Mapping[str, str], what: str, cwd: Path | None = None) -> str:
    """Run a command; what it printed.

    Raises:
        WheelError: It failed; the text has the end of what it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WheelError(f"{what} failed:\n{done.stdout[-_MOST_CHARACTERS:]}{done.stderr[-_MOST_CHARACTERS:]}")
    return done.stdout
