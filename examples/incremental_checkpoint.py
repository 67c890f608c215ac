"""Which pages were written to since the last checkpoint?

    python examples/incremental_checkpoint.py

Memory is loaded with its pages write-protected. The first write to a page is noted, and a
checkpoint saves the noted pages alone.
"""

import tempfile
from pathlib import Path

import numpy as np

import pyuffd

LENGTH = 4 << 20


def save(memory: pyuffd.Mapping, written: list[tuple[int, int]], file: Path) -> int:
    """Write what has changed over the last checkpoint; how many bytes that is."""
    with file.open("r+b") as checkpoint:
        for start, length in written:
            offset = start - memory.address
            checkpoint.seek(offset)
            checkpoint.write(memory.array[offset : offset + length].tobytes())
    return sum(length for _, length in written)


def main() -> None:
    """Load, change, save; twice."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint.bin"
        np.zeros(LENGTH, np.uint8).tofile(file)
        memory = pyuffd.Mapping(LENGTH)
        region = pyuffd.Region.of(memory, pyuffd.MemorySource(file.read_bytes()), mode="missing+wp")
        with pyuffd.serve(pyuffd.Userfaultfd(), [region]) as target:
            for round_number in (1, 2):
                memory.array[: 100 * round_number] = round_number
                memory.array[1 << 20 :: 1 << 18] = round_number
                saved = save(memory, target.written(reset=True), file)
                print(f"checkpoint {round_number}: saved {saved} of {LENGTH} bytes")
            same = np.array_equal(np.fromfile(file, np.uint8), memory.array)
        print("the checkpoint has all bytes" if same else "the checkpoint differs")
        if not same:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
