"""Writes the report of a run from its raw results alone, and prints the answer."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from . import cost_model, detail_figures, headline_figures, tables
from .answers import answers, balance, headline, quiet
from .plotting import Drawn
from .pyperf_files import write_pyperf
from .results import Results, load

TITLE = "pyuffd: endings, faults, fills and restores, measured"
_WORDS = (
    "pyuffd fills the memory of a process through userfaultfd, page by page, when a page is touched. When every page "
    "is there it lets go: an early close closes the descriptor at once; unregister calls UNREGISTER for each region "
    "before; keep-open does neither. A region is a registered range of memory. Lower is better unless a figure says "
    "otherwise."
)

_COMPARED = (
    "Ratios of arms that were measured in the same rounds of the same processes, in shuffled order: the geometric mean "
    "over the processes, of which each counts by the median of its rounds, and an interval of 95 % (Student's t). No "
    "outlier is dropped. With a ratio above 1 the arm takes longer than the one it is compared with."
)
_GOALS = "Undecided: the interval holds the limit."
_COST = (
    "The bare loops of all axes, fitted as a sum of parts: constants with their standard errors, and the largest "
    "relative distance between a median and the fit."
)
_VALUES = "Medians and ranges of all values. An arm that is named again is the control."


@dataclass(frozen=True)
class Embedded:
    """A figure in the page."""

    name: str
    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Table:
    """A table in the page."""

    title: str
    text: str
    html: str


def write(folder: Path) -> Results:
    """Write ``report.html``, ``figures/`` and the files for pyperf, and print the answer.

    What more than the answer was measured goes to ``details.html``.

    Raises:
        RecordError: There are no results, or they cannot be read.
    """
    results = load(folder)
    _remove_earlier(folder)
    answer, details = list(headline_figures.draw(results)), list(detail_figures.draw(results))
    _save([*answer, *details], folder / "figures")
    (folder / "report.html").write_text(_page(results, answer, _tables_of_answer(results)))
    if details:
        (folder / "details.html").write_text(_page(results, details, _tables_of_details(results)))
    write_pyperf(results, folder)
    _print(results)
    return results


def _has_headline(results: Results) -> bool:
    """Whether any case is part of the answer; where none is, the answer is of all there are."""
    return any(info.headline for info in results.cases.values())


def _tables_of_answer(results: Results) -> Iterator[Table]:
    only = _has_headline(results)
    yield Table("What was compared", _COMPARED, _html(tables.of_comparisons(results, headline_only=only)))
    yield Table("Where and how", "", _html(tables.of_run(results)))
    yield Table("All values", _VALUES, _html(tables.of_values(results, headline_only=only)))


def _tables_of_details(results: Results) -> Iterator[Table]:
    yield Table("What must be reached", _GOALS, _html(tables.of_goals(results)))
    yield Table("What an ending costs the kernel", _COST, _html(cost_model.table(results)))
    yield Table("What was compared", _COMPARED, _html(tables.of_comparisons(results, headline_only=False)))
    yield Table("Where and how", "", _html(tables.of_run(results)))
    yield Table("All values", _VALUES, _html(tables.of_values(results, headline_only=False)))


def _remove_earlier(folder: Path) -> None:
    """What an earlier report of other results has left, and this one may not write again."""
    for path in [folder / "details.html", *(folder / "figures").glob("*.svg")]:
        path.unlink(missing_ok=True)


def _save(drawn: Sequence[Drawn], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for each in drawn:
        (folder / f"{each.name}.svg").write_bytes(_svg(each.name, each.figure))


def _svg(name: str, figure: Figure) -> bytes:
    """The same for the same results."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _page(results: Results, drawn: Sequence[Drawn], every: Iterable[Table]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        title=TITLE,
        words=_WORDS,
        headline=headline(results),
        quiet=quiet(results),
        failures=results.failures,
        skipped=results.skipped,
        answers=list(answers(results)),
        balance=balance(results),
        figures=[
            Embedded(each.name, each.title, each.note, base64.b64encode(_svg(each.name, each.figure)).decode())
            for each in drawn
        ],
        tables=list(every),
    )


def _html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, border=0))


def _print(results: Results) -> None:
    print(headline(results), end="\n\n")
    for answer in answers(results):
        print(answer)
    found = balance(results)
    print(found.summary, *found.losses, sep="\n", end="\n\n")
    with pd.option_context("display.width", 200, "display.max_colwidth", 60):
        table = tables.of_comparisons(results, headline_only=_has_headline(results))
        print(table.to_string(index=False), end="\n\n")
        reached = tables.of_goals(results)
        if not _has_headline(results) and not reached.empty:
            print(reached.to_string(index=False), end="\n\n")
    print(quiet(results))
    for failure in results.failures:
        print(f"FAILED {failure}")
    for each in results.skipped:
        print(f"left out: {each}")
