"""The laboratory's results: raw JSON, a table and a figure, made again from the JSON at any time."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib

from ._run import Run
from ._verdict import EXPERIMENTS, Severity, Verdict, verdict

matplotlib.use("Agg")
from matplotlib.figure import Figure

RAW = "kernels.json"

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


def table(runs: Sequence[Run]) -> str:
    """Kernel by experiment, as Markdown."""
    header = ["experiment", *(_title(run).replace("\n", ", ") for run in runs)]
    lines = [header, ["---"] * len(header)]
    lines += [[title, *(cell.text for cell in _cells(name, runs))] for name, title in EXPERIMENTS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw kernel by experiment: what happens to those who meet the release."""
    figure = Figure(figsize=(2.6 + 2.3 * len(runs), 0.9 + 0.55 * len(EXPERIMENTS)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(EXPERIMENTS):
        for column, cell in enumerate(_cells(name, runs)):
            axes.add_patch(_square(column, row, _COLOURS[cell.severity]))
            axes.text(column, row, _wrapped(cell.text), ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(runs) - 0.5), ylim=(len(EXPERIMENTS) - 0.5, -0.5))
    axes.set_xticks(range(len(runs)), [_title(run) for run in runs])
    axes.set_yticks(range(len(EXPERIMENTS)), list(EXPERIMENTS.values()))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    seen = sorted({cell.severity for name in EXPERIMENTS for cell in _cells(name, runs)})
    patches = [matplotlib.patches.Patch(color=_COLOURS[severity], label=_MEANINGS[severity]) for severity in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    figure.savefig(path, dpi=130)


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
