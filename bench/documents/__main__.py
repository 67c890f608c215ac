"""Writes what README.md and docs/*.md quote of docs/results and docs/results-kernels: ``python -m bench.documents``.

It stands in the text between two comments, which no reader sees; the first says what it is:

    an early close takes <!--= median ending | 4096 regions | early-close -->1.14 ms<!--=-->

What can be asked for stands in ``figures`` and ``tables``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..harness.records import RecordError
from .quotes import QuoteError, documents, updated
from .sources import Sources

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Write them; 1 where something is asked for that the results do not have."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.documents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    try:
        changed = _write(documents(ROOT), Sources.load(ROOT / "docs"))
    except (RecordError, QuoteError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"{path.relative_to(ROOT)} was changed" for path in changed) or "nothing has changed")
    return 0


def _write(paths: Sequence[Path], sources: Sources) -> list[Path]:
    """All or none."""
    texts = {path: path.read_text() for path in paths}
    new = {path: updated(text, sources, path.name) for path, text in texts.items()}
    changed = [path for path in paths if new[path] != texts[path]]
    for path in changed:
        path.write_text(new[path])
    return changed


if __name__ == "__main__":
    sys.exit(main())
