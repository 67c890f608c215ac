"""Runs the laboratory's programs, on a kernel of their own or on this one, and reads what they print."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._archive import write_initramfs
from ._missing import EMULATOR
from ._program import Programs
from ._variants import Variant

# More than all experiments together may take; what a guest printed before it was stopped is kept.
_TIME_LIMIT = 300.0


@dataclass(frozen=True)
class Run:
    """What one kernel did.

    Attributes:
        name: Of the variant, or ``"host"``.
        kernel: As ``uname -r`` prints it.
        records: One of each experiment that ended, in order.
        cpus: How many it ran on.
        complete: Whether the program came to its end; a kernel that hangs does not.
        console: Everything that was printed.
    """

    name: str
    kernel: str
    records: Sequence[dict[str, Any]]
    complete: bool
    console: str
    cpus: int = 0


def run_on_host(programs: Programs) -> Run:
    """Run them on this kernel."""
    return _parsed("host", _output_of([str(programs.laboratory), str(programs.reproducer)]))


def run_in_guest(variant: Variant, image: Path, programs: Programs) -> Run:
    """Boot the kernel with the laboratory as /init. TCG serves counts and behaviour, never timings."""
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder, "initramfs.cpio")
        write_initramfs(initramfs, {"init": programs.laboratory, "reproducer": programs.reproducer})
        command = [
            EMULATOR,
            *("-accel", "tcg,thread=multi", "-smp", "2", "-m", "1G", "-cpu", "max"),
            *("-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"),
            *("-kernel", str(image), "-initrd", str(initramfs)),
            *("-append", f"console=ttyS0 panic=-1 quiet -- /reproducer {' '.join(variant.parts)}"),
        ]
        return _parsed(variant.name, _output_of(command))


def _output_of(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TIME_LIMIT,
            check=False,
        )  # fmt: skip
        output = done.stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    return output.decode(errors="replace")


def _parsed(name: str, console: str) -> Run:
    records, kernel, cpus, complete = [], "unknown", 0, False
    for line in console.splitlines():
        start = line.find("{")
        try:
            record = json.loads(line[start:]) if start >= 0 else None
        except ValueError:
            continue  # the kernel's own lines
        if not isinstance(record, dict):
            continue
        if "experiment" in record:
            records.append(record)
        elif "kernel" in record:
            kernel, cpus = record["kernel"], record.get("cpus", 0)
        complete = complete or record.get("complete") is True
    return Run(name, kernel, records, complete, console, cpus)
