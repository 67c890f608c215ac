"""Writes the report of a run from its raw results alone: ``python -m bench.report DIR``, or of one file of them.

``report.md`` (with ``figures/``) and ``report.html``, which is one self-contained file, say the same. Those of a file
``NAME.json`` go to a folder ``NAME-report`` beside it.
"""

import argparse
import base64
import html
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Siblings import each other by bare names: python puts their folder on the path for a script, but not for -m.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import matplotlib
from _axes import ENDINGS
from _cost_model import PARTS
from _cost_model import rows as cost_rows
from _endings import duels
from _figures import Shown, figures
from _goals import goals
from _results import Results
from _table import HEADER, print_table, rows

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows under a header."""

    header: Row
    rows: Sequence[Row]


@dataclass(frozen=True)
class Section:
    """A heading, and what stands under it: text, a table, a figure."""

    heading: str
    text: str = ""
    table: Table | None = None
    shown: Shown | None = None


def write(path: Path, folder: Path) -> Table:
    """Write the report.

    Args:
        path: The folder with the raw results, or one file of them.
        folder: Where the report goes.

    Returns:
        What must be reached, against what was measured.
    """
    results = Results(path)
    must = _goal_table(results)
    sections = [
        Section("What was measured, and where", table=_header(results)),
        Section("What must be reached", _GOALS_TEXT, must),
        Section("Early close against unregister", _verdict(results)),
        Section("What an ending costs the kernel", _COST_TEXT, _cost_table(results)),
        *(Section(shown.title, shown.drawn.sentence, shown=shown) for shown in figures(results)),
        Section("Failures", _failures(results)),
        Section("All benchmarks", _ALL_TEXT, _all_table(results)),
    ]
    (folder / "report.md").write_text(_markdown(sections, folder))
    (folder / "report.html").write_text(_html(sections))
    return must


_GOALS_TEXT = (
    "Ratios of medians, of arms that were measured in interleaved rounds of the same processes; beside them the median "
    "and the quartiles of the rounds' own ratios."
)
_COST_TEXT = (
    "The bare loops of all axes, fitted as a sum of parts: constants with their standard errors, and the largest "
    "relative distance between a median and the fit."
)
_ALL_TEXT = "Medians; no outlier is dropped. A ratio is to what the benchmark is measured against; lower is better."


def _header(results: Results) -> Table:
    dates = [found[0] for _, benchmark in results.benchmarks() if (found := benchmark.get_dates())]
    processes = sorted({benchmark.get_nrun() for _, benchmark in results.benchmarks()})
    rows = [
        ("date", f"{min(dates):%Y-%m-%d %H:%M}" if dates else "unknown"),
        ("mode", f"{_joined(results, 'effort')} ({' or '.join(map(str, processes))} processes for each benchmark)"),
        ("commit", f"{_joined(results, 'git_commit')}, pyuffd {_joined(results, 'pyuffd_version')}"),
        ("build", _joined(results, "pyuffd_build_type")),
        ("CPU", f"{_joined(results, 'cpu_model_name')}, {_joined(results, 'cpu_count')} CPUs"),
        ("kernel", f"Linux {_joined(results, 'kernel')}, release generation {_joined(results, 'release_generation')}"),
        ("userfaultfd features", _joined(results, "uffd_features")),
        ("transparent huge pages", _joined(results, "transparent_hugepage")),
        ("page size", f"{_joined(results, 'page_size')} bytes"),
    ]
    return Table(("", ""), rows)


def _joined(results: Results, key: str) -> str:
    return ", ".join(results.metadata(key)) or "unknown"


def _goal_table(results: Results) -> Table:
    rows = [
        (goal.what, "" if goal.measured is None else f"{goal.measured:.3f}", goal.bound, goal.verdict, goal.detail)
        for goal in goals(results)
    ]
    return Table(("goal", "measured", "must be", "verdict", "paired (quartiles)"), rows)


def _cost_table(results: Results) -> Table:
    return Table(("ending", *PARTS, "largest misfit"), cost_rows(results, ENDINGS))


def _verdict(results: Results) -> str:
    """Say where the early close loses, and where it does not."""
    found = duels(results)
    if not found:
        return "They were not both measured."
    losses = [duel.text for duel in found if duel.ratio > 1]
    wins = sum(duel.ratio < 1 and duel.clear for duel in found)
    won = f"Of {len(found)} comparisons by medians, the early close wins {wins} clear of the spread."
    if not losses:
        return f"{won} It loses none."
    return f"{won} It loses {len(losses)}: {'; '.join(losses)}."


def _failures(results: Results) -> str:
    return " ".join(failure.splitlines()[0] for failure in results.failures) or "None: no process hung or failed."


def _all_table(results: Results) -> Table:
    lines = [(name, *line) for name, suite in results.suites.items() for line in rows(suite)]
    return Table(("suite", *HEADER), lines)


def _markdown(sections: Iterable[Section], folder: Path) -> str:
    parts = [f"# {_TITLE}"]
    for section in sections:
        parts.append(f"## {section.heading}")
        if section.text:
            parts.append(section.text)
        if section.table:
            parts.append(_markdown_table(section.table))
        if section.shown:
            parts.append(f"![{section.heading}]({_save_png(section.shown, folder)})")
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _save_png(shown: Shown, folder: Path) -> str:
    path = folder / "figures" / f"{shown.name}.png"
    path.parent.mkdir(exist_ok=True)
    shown.drawn.figure.savefig(path, dpi=150, metadata={"Software": None})
    return str(path.relative_to(folder))


def _html(sections: Iterable[Section]) -> str:
    parts = [f"<h1>{_TITLE}</h1>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        if section.text:
            parts.append(f"<p>{html.escape(section.text)}</p>")
        if section.table:
            parts.append(_html_table(section.table))
        if section.shown:
            source = f"data:image/svg+xml;base64,{_svg(section.shown)}"
            parts.append(f'<img alt="{html.escape(section.heading)}" src="{source}">')
    return _PAGE_START + "\n".join(parts) + "\n</body></html>\n"


def _html_table(table: Table) -> str:
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><tr>{header}</tr>\n{rows}</table>"


def _svg(shown: Shown) -> str:
    """The figure as SVG in base64, the same for the same results."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": shown.name}):
        shown.drawn.figure.savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()


_TITLE = "pyuffd: what an early close costs and saves"
_PAGE_START = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; font-size: 0.85em }}
td, th {{ border-bottom: 1px solid #ddd; padding: 0.2em 0.8em; text-align: left; font-variant-numeric: tabular-nums }}
img {{ max-width: 100% }}
</style></head><body>
"""


def main() -> None:
    """Write the report of the folder that was asked for, and print what must be reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("path", type=Path, metavar="DIR", help="of python -m bench --out, or one FILE.json")
    path: Path = parser.parse_args().path
    folder = path if path.is_dir() else path.with_name(f"{path.stem}-report")
    folder.mkdir(exist_ok=True)
    must = write(path, folder)
    print_table(must.header, must.rows if path.is_dir() else [row for row in must.rows if row[1]])
    print(f"\nthe report is {folder / 'report.html'} (and report.md)")


if __name__ == "__main__":
    main()
