"""Bars of those who wait: shown where a person looks."""

import io
import sys

import pytest

from pyuffd._progress import page_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "shown"),
    [
        (Terminal, None, True),
        (Terminal, False, False),
        (io.StringIO, None, False),
        (io.StringIO, True, True),
    ],
)
def test_a_bar_is_shown_where_a_person_looks(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], progress: bool | None, shown: bool
) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    with page_bar(10, progress) as tell:
        tell(10)
    assert ("10/10" in stderr.getvalue().replace(".0", "")) == shown


def test_nothing_is_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with page_bar(10, True) as tell:
        tell(10)
