"""The questions: one file each, whose docstring is the question and what the answer decides."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ..harness.case import Case

# In the order in which they are measured and told.
NAMES = (
    "ending",
    "tails",
    "fault",
    "default",
    "fill",
    "restore",
    "modes",
    "meetings",
    "instead",
    "threads",
    "scale",
    "share",
    "cold",
    "targets",
    "fairness",
    "fork",
    "guard",
    "criu",
    "footprint",
)


@dataclass(frozen=True)
class Context:
    """What a question needs besides itself.

    Attributes:
        folder: Of the results; what several workers share lies in it.
    """

    folder: Path


class Question(Protocol):
    """What a module here has."""

    __doc__: str | None

    @staticmethod
    def cases(context: Context) -> Sequence[Case]:
        """Give what it measures."""


def load(name: str) -> Question:
    """Import a question."""
    return cast(Question, importlib.import_module(f".{name}", __name__))


def sentence(name: str) -> str:
    """The question itself: the first paragraph of the docstring."""
    text = load(name).__doc__ or ""
    return " ".join(text.split("\n\n", 1)[0].split())
