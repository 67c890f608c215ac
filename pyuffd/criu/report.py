"""``pyuffd images``: what the images of a checkpoint hold, as a table or for programs."""

import json
from pathlib import Path
from typing import Any

from pyuffd.criu.check import problems
from pyuffd.criu.images import Images, Task, Totals

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def told(path: Path, *, check: bool, as_json: bool) -> tuple[str, int]:
    """What the images of a folder hold, or what is wrong with them.

    Args:
        path: The folder.
        check: Whether to look at everything.
        as_json: Whether the text is for programs.

    Returns:
        The text, and the exit code: 1 where something is wrong.
    """
    wrong = problems(path) if check else []
    if as_json:
        shown = {} if wrong else _as_json(Images(path))
        return json.dumps(shown | ({"problems": wrong} if check else {}), indent=2), int(bool(wrong))
    if wrong:
        return "\n".join(wrong), 1
    return table(Images(path)) + ("\n\nnothing is wrong with them" if check else ""), 0


def table(images: Images) -> str:
    """Return the table of the tasks, of shared memory, and their sums."""
    lines = [
        f"{images.path}: version {images.version}, tasks: {len(images.tasks)}",
        "",
        f"{'pid':>8} {'ppid':>8}  {'program':<15} {'regions':>7} {'ranges':>7} {'lazy':>10} {'eager':>10} "
        f"{'compressed':>10} {'stored':>10}",
    ]
    lines += [_row(task) for task in images.tasks.values()]
    lines += [
        f"{'shared':>8} {one.shmid:>8}  {'':<15} {'':>7} {'':>7} {_sizes(one.totals)}" for one in images.shared.values()
    ]
    remote = images.totals.remote
    lines.append(f"{'all':>8} {'':>8}  {'':<15} {'':>7} {'':>7} {_sizes(images.totals)}")
    return "\n".join(lines + ([f"{_size(remote)} are with the page server"] if remote else []))


def _row(task: Task) -> str:
    begin = f"{task.pid:>8} {task.ppid:>8}  {_printable(task.comm):<15}"
    if not task.has_memory:
        return f"{begin} no memory"
    return f"{begin} {task.regions:>7} {len(task.lazy):>7} {_sizes(task.totals)}"


def _sizes(totals: Totals) -> str:
    columns = (totals.lazy, totals.eager, totals.compressed, totals.stored)
    return " ".join(f"{_size(one):>10}" for one in columns)


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def _printable(text: str) -> str:
    """A program's name, which may hold what moves a terminal's cursor."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _as_json(images: Images) -> dict[str, Any]:
    """Return it in types of JSON."""
    return {
        "path": str(images.path),
        "version": images.version,
        "tasks": [_task(task) for task in images.tasks.values()],
        "shared": [{"shmid": one.shmid, **one.totals._asdict()} for one in images.shared.values()],
        "totals": images.totals._asdict(),
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "pid": task.pid,
        "ppid": task.ppid,
        "program": task.comm,
        "threads": list(task.threads),
        "has_memory": task.has_memory,
        "regions": task.regions,
        "ranges": len(task.lazy),
        **task.totals._asdict(),
    }
