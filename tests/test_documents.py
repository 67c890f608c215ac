"""What README and docs quote is what the published results say, and nothing measured is quoted without them."""

import re
from pathlib import Path

import pytest

from bench.documents import quotes
from bench.documents.sources import Sources

ROOT = Path(__file__).resolve().parent.parent

# A time with its unit, or so many times as much.
_FIGURE = re.compile(r"\b\d[\d.,]* ?(?:s|ms|us|µs|ns)\b|\b\d[\d.,]* times\b")
# What is set and not measured, by document.
_SET = {
    "README.md": {"50 us", "50 ms", "200 us"},
    "letting-go.md": {"5 ms"},
    "glossary.md": {"1 ms"},
    "placement.md": {"1 ms", "50 ms", "200 us"},
    "performance.md": {
        "50 us",
        "50 ms",
        "20 us",
        "200 us",
        "100 us",
        "0.1 ms",
        "0.2 ms",
        "1 ms",
        "4 ms",
        "8 ms",
        "10 ms",
    },
    "unregister-lost-wake.md": set(),
}


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources.load(ROOT / "docs")


@pytest.mark.parametrize("path", quotes.documents(ROOT), ids=lambda path: path.name)
def test_documents_quote_what_was_measured(path: Path, sources: Sources) -> None:
    text = path.read_text()
    assert quotes.updated(text, sources, path.name) == text, "write it anew: python -m bench.documents"


@pytest.mark.parametrize("path", quotes.documents(ROOT), ids=lambda path: path.name)
def test_what_is_measured_is_quoted(path: Path) -> None:
    told = set(_FIGURE.findall(quotes.without_quotes(path.read_text())))
    assert told <= _SET.get(path.name, set()), "have it written from the results: see python -m bench.documents --help"


def test_a_figure_that_differs_is_written_anew(sources: Sources) -> None:
    what = "median ending | 4096 regions | early-close"
    wrong = f"It takes <!--= {what} -->77 weeks<!--=-->."
    right = quotes.updated(wrong, sources, "README.md")
    assert "77 weeks" not in right
    assert quotes.without_quotes(right) == "It takes ."
    assert quotes.updated(right, sources, "README.md") == right


@pytest.mark.parametrize(
    "what",
    ["median ending | 4097 regions | early-close", "median ending | 4096 regions", "mean ending", "table of goals"],
)
def test_what_the_results_do_not_have_is_refused(what: str, sources: Sources) -> None:
    with pytest.raises(quotes.QuoteError, match=rf"README.md asks for '{re.escape(what)}'"):
        quotes.updated(f"<!--= {what} -->1 ms<!--=-->", sources, "README.md")
