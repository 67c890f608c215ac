"""The laboratory's results: raw JSON, tables and figures, made again from the JSON at any time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib

from ._run import Run
from ._verdict import RELEASES, WAKES, Severity, Verdict, verdict

matplotlib.use("Agg")
from matplotlib.figure import Figure

RAW = "kernels.json"

# A table and a figure each; a kernel is in those for which it ran an experiment.
_PARTS = {"releases": RELEASES, "lost-wakes": WAKES}

# Okabe and Ito's palette, which the colour-blind can tell apart; the text in each cell says the same again.
_COLOURS = {
    Severity.CLEAN: "#CFEFE4",
    Severity.SPINS: "#F0E442",
    Severity.ERROR: "#E69F00",
    Severity.ASLEEP: "#56B4E9",
    Severity.SIGBUS: "#D55E00",
    Severity.HANGS: "#CC79A7",
    Severity.NOTHING: "#DDDDDD",
}
_MEANINGS = {
    Severity.CLEAN: "goes on",
    Severity.SPINS: "spins",
    Severity.ERROR: "error of a call",
    Severity.ASLEEP: "left asleep",
    Severity.SIGBUS: "SIGBUS",
    Severity.HANGS: "hangs",
    Severity.NOTHING: "not measured",
}


def write_raw(out: Path, runs: Sequence[Run]) -> None:
    """Write what the kernels printed: records for programs, and the consoles for people."""
    out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (out / f"console-{run.name}.log").write_text(run.console)
    records = [{key: value for key, value in asdict(run).items() if key != "console"} for run in runs]
    (out / RAW).write_text(json.dumps(records, indent=1) + "\n")


def read_raw(out: Path) -> list[Run]:
    """Read them again."""
    return [Run(**record, console="") for record in json.loads((out / RAW).read_text())]


def tables(runs: Sequence[Run]) -> dict[str, str]:
    """Kernel by experiment, as Markdown: a table for each part, by its name."""
    return {name: _table(experiments, those) for name, experiments, those in _parts(runs)}


def draw(runs: Sequence[Run], folder: Path) -> None:
    """Draw kernel by experiment, a figure for each part: what happens to those who meet the kernel there."""
    for name, experiments, those in _parts(runs):
        _matrix(experiments, those).savefig(folder / f"{name}.png", dpi=130)


def _parts(runs: Sequence[Run]) -> Iterator[tuple[str, Mapping[str, str], Sequence[Run]]]:
    for name, experiments in _PARTS.items():
        those = [run for run in runs if any(record["experiment"] in experiments for record in run.records)]
        if those:
            yield name, experiments, those


def _table(experiments: Mapping[str, str], runs: Sequence[Run]) -> str:
    header = ["experiment", *(_title(run).replace("\n", ", ") for run in runs)]
    lines = [header, ["---"] * len(header)]
    lines += [[title, *(cell.text for cell in _cells(name, runs))] for name, title in experiments.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _matrix(experiments: Mapping[str, str], runs: Sequence[Run]) -> Figure:
    figure = Figure(figsize=(2.6 + 2.3 * len(runs), 0.9 + 0.55 * len(experiments)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(experiments):
        for column, cell in enumerate(_cells(name, runs)):
            axes.add_patch(_square(column, row, _COLOURS[cell.severity]))
            axes.text(column, row, _wrapped(cell.text), ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(runs) - 0.5), ylim=(len(experiments) - 0.5, -0.5))
    axes.set_xticks(range(len(runs)), [_title(run) for run in runs])
    axes.set_yticks(range(len(experiments)), list(experiments.values()))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    seen = sorted({cell.severity for name in experiments for cell in _cells(name, runs)})
    patches = [matplotlib.patches.Patch(color=_COLOURS[severity], label=_MEANINGS[severity]) for severity in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    return figure


def _cells(experiment: str, runs: Sequence[Run]) -> list[Verdict]:
    return [
        verdict(experiment, [record for record in run.records if record["experiment"] == experiment]) for run in runs
    ]


def _title(run: Run) -> str:
    return f"{run.name}\nLinux {run.kernel}, {run.cpus} CPUs" + ("" if run.complete else "\n(did not end)")


def _square(column: int, row: int, colour: str) -> "matplotlib.patches.Rectangle":
    return matplotlib.patches.Rectangle((column - 0.48, row - 0.45), 0.96, 0.9, facecolor=colour, edgecolor="none")


def _wrapped(text: str, width: int = 26) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)
