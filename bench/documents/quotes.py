"""Finds what a document quotes, and writes it anew."""

import re
from collections.abc import Callable
from pathlib import Path

from . import figures, tables
from .sources import Sources

_QUOTE = re.compile(r"<!--= (?P<what>[^>]*?) -->(?P<text>.*?)<!--=-->", re.DOTALL)


class QuoteError(Exception):
    """The results do not have what a document asks for."""


def documents(root: Path) -> list[Path]:
    """The files that may quote."""
    pages = (path for path in (root / "docs").rglob("*.md") if not path.parent.name.startswith("results"))
    return [root / "README.md", *sorted(pages)]


def updated(text: str, sources: Sources, name: str) -> str:
    """Write all that the text quotes as the results have it.

    Raises:
        QuoteError: The results do not have it, or there is no such kind of quotation.
    """

    def quoted(match: re.Match[str]) -> str:
        what = match["what"]
        try:
            new = _told(what, sources)
        except (KeyError, ValueError, TypeError) as error:
            raise QuoteError(f"{name} asks for '{what}', which the results do not have: {error}") from error
        return f"<!--= {what} -->{new}<!--=-->"

    return _QUOTE.sub(quoted, text)


def without_quotes(text: str) -> str:
    """What its author has written."""
    return _QUOTE.sub("", text)


def _told(what: str, sources: Sources) -> str:
    kind, _, rest = what.partition(" ")
    if kind == "table":
        return f"\n{tables.KINDS[rest](sources)}"
    tell: Callable[..., str] = figures.KINDS[kind]
    return tell(sources, *(part.strip() for part in rest.split("|")))
