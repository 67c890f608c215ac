"""Typical mistakes, and what pyuffd answers: a table of docs/faq.md.

The table stands between two comments there. What differs from run to run, such as addresses, is written as "...".
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pyuffd

FAQ = Path(__file__).resolve().parent / "faq.md"
_BEGIN, _END = "<!-- written by python docs/generate.py -->\n", "<!-- until here -->\n"

_BEFORE_SERVING = (
    'pyuffd.lazy_array("image.bin", np.uint8, 4096)',
    "pyuffd.lazy_array(source, np.float32, (1 << 20, 2))",
    "pyuffd.lazy_array(source, object, 10)",
    'pyuffd.FileSource("no-such-file")',
    'pyuffd.FileSource("empty.bin")',
    "pyuffd.Region(memory, 4096, source)",
    "pyuffd.Region(memory.address, -4096, source)",
    "pyuffd.Region(memory.address + 1, 4096, source)",
    "pyuffd.Region(memory.address, 8 << 20, source)",
    'pyuffd.Region.of(memory, source, mode="missing+write")',
    "pyuffd.serve(uffd, [])",
    'pyuffd.serve(uffd, [region], ending="early")',
    "pyuffd.serve(uffd, [region], verify=1)",
    "pyuffd.serve(uffd, [region], fault_arround=4)",
    "pyuffd.serve(closed_uffd, [region])",
    "pyuffd.serve(uffd, [pyuffd.Region.of(memory, pyuffd.CallableSource(function, 1 << 20))])",
)
_WHILE_SERVING = ("memory.close()", "target.close()", "target.stop()", "target.written()")


def mistakes() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give each mistake as a reader would write it, and what makes it; image.bin and empty.bin are there."""
    memory, source = pyuffd.Mapping(1 << 20), pyuffd.FileSource("image.bin")
    names: dict[str, Any] = {
        "pyuffd": pyuffd,
        "np": np,
        "memory": memory,
        "source": source,
        "region": pyuffd.Region.of(memory, source),
        "uffd": pyuffd.Userfaultfd(),
        "closed_uffd": pyuffd.Userfaultfd(),
        "function": lambda offset, length: bytes(length),
    }
    names["closed_uffd"].close()

    def make(code: str) -> Callable[[], Any]:
        return lambda: eval(code, names)

    for code in _BEFORE_SERVING:
        yield code, make(code)
    names["target"] = pyuffd.serve(names["uffd"], [names["region"]])
    for code in _WHILE_SERVING:
        yield code, make(code)
    names["target"].close(missing="zero")


def answer(run: Callable[[], Any]) -> str:
    """Make a mistake; the error's type and text.

    Raises:
        AssertionError: It is none.
    """
    try:
        run()
    except Exception as error:
        text = re.sub(r"0x[0-9a-f]+", "0x...", str(error)).replace("<", "\\<")
        return f"`{type(error).__name__}`: " + re.sub(r"\[Errno \d+\] ", "", text)
    raise AssertionError("nothing was raised")


def table() -> str:
    """A row for each."""
    rows = ["| you write | you get |", "|---|---|"]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("image.bin").write_bytes(bytes(4 << 20))
            Path("empty.bin").touch()
            rows += [f"| `{code}` | {answer(run)} |" for code, run in mistakes()]
        finally:
            os.chdir(before)
    return "\n".join(rows) + "\n"


def page() -> str:
    """The FAQ with the table of now."""
    before, _, rest = FAQ.read_text().partition(_BEGIN)
    return before + _BEGIN + table() + _END + rest.partition(_END)[2]
