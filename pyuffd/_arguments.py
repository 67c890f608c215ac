"""Checks of the arguments of public functions. An error says what an argument is, and what it must be."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from pyuffd._core import Source

_SOURCES = (
    "a source: pyuffd.FileSource(path), MemorySource(buffer), ZeroSource(), CallableSource(function, length) or "
    "SharedImage(source)"
)


def check_flag(name: str, value: Any) -> None:
    """Check that an argument is True or False.

    Raises:
        TypeError: The argument is something else, such as 0 or 1.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be True or False")


def check_word(name: str, value: Any, words: Sequence[str]) -> None:
    """Check that an argument is one of a few words.

    Raises:
        TypeError: The argument is not a text.
        ValueError: The argument is another word.
    """
    if value not in words:
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} is {value!r}; it must be one of {', '.join(map(repr, words))}")


def check_count(name: str, value: Any) -> int:
    """Check that an argument is a number of things, at least one; return the number.

    Raises:
        TypeError: The argument is something else.
        ValueError: The number is 0 or less.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return int(value)


def check_seconds(name: str, value: Any) -> None:
    """Check that an argument is a number of seconds, or None.

    Raises:
        TypeError: The argument is something else.
        ValueError: The argument is NaN.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; it must be a number of seconds, or None")
    if math.isnan(value):
        raise ValueError(f"{name} is nan, which is not a number: give a number of seconds, or None")


def check_source(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that an argument is a source.

    Raises:
        TypeError: The argument is something else.
    """
    if not isinstance(value, Source) and not (optional and value is None):
        raise TypeError(f"{name} is {value!r}; it must be {_SOURCES}")


def check_instance(name: str, value: Any, kind: type, article: str = "a") -> None:
    """Check that an argument is an object of a public class.

    Raises:
        TypeError: The argument is something else.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} is {value!r}; it must be {article} {kind.__module__.partition('.')[0]}.{kind.__name__}"
        )
