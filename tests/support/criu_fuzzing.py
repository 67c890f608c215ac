"""Fuzzes the parsers of CRIU's images with atheris, for as long as is asked: tests/fuzz --minutes N."""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# A process takes some KiB more with each input, so that it has to end at times.
_ROUND_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="default: 10")
    parser.add_argument("--seed", type=int, default=0, help="of the first minute; 0, the default, draws one")
    parser.add_argument("--round", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        print("tests/fuzz: atheris is missing: pip install atheris", file=sys.stderr)
        return 1
    seconds = parsed.minutes * 60
    if parsed.round:
        _fuzz(atheris, parsed.round, seconds, parsed.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return _rounds(Path(folder), seconds, parsed.seed)


def _rounds(folder: Path, seconds: float, seed: int) -> int:
    """Fuzz in one process after another, which find what those before them kept."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        length = min(left, _ROUND_SECONDS)
        command = ["--round", str(folder), "--minutes", str(length / 60), "--seed", str(seed)]
        code = subprocess.run([sys.executable, "-m", "support.criu_fuzzing", *command], check=False).returncode
        if code:
            return code
        seed = seed and seed + 1
    return 0


def _fuzz(atheris: Any, folder: Path, seconds: float, seed: int) -> None:
    """Begin with valid files; the first byte of an input says which file it is. libFuzzer exits by itself."""
    importlib.import_module("pyuffd")  # what is imported before is left alone
    with atheris.instrument_imports(include=["pyuffd.criu"]):
        fuzzed = importlib.import_module("support.criu_fuzzed")
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as written:
        images = fuzzed.valid(Path(written)).path
        for number, name in enumerate(fuzzed.NAMES):
            (corpus / str(number)).write_bytes(bytes([number]) + (images / name).read_bytes())

        def one(data: bytes) -> None:
            if data:
                fuzzed.survives(images, fuzzed.NAMES[data[0] % len(fuzzed.NAMES)], data[1:])

        # All valid files run the same lines, so that libFuzzer would forget all but the smallest.
        options = ["-keep_seed=1", "-len_control=0", "-max_len=4096", "-rss_limit_mb=2048", f"-seed={seed}"]
        options += [f"-max_total_time={max(1, int(seconds))}", f"-artifact_prefix={tempfile.gettempdir()}/"]
        atheris.Setup([sys.argv[0], str(corpus), *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
