"""Writes what the documentation takes from the code: python docs/generate.py.

These are the pictures, the table of mistakes in the FAQ, and the help of the commands. What it quotes of benchmarks is
written by python -m bench.documents.
"""

from pathlib import Path

import command_line
import mistakes
import pictures


def written() -> dict[Path, str]:
    """Every file that is written, with its text."""
    texts = {pictures.FOLDER / f"{name}.svg": draw().svg() for name, draw in pictures.PICTURES.items()}
    return texts | {mistakes.FAQ: mistakes.page(), command_line.PAGE: command_line.page()}


if __name__ == "__main__":
    for path, text in written().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.name, "was changed")
