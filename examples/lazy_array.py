"""How do I get an array that loads on first touch?

    python examples/lazy_array.py

Makes a file of 64 MiB, opens it as an array, and shows how many pages each step loads.
"""

import tempfile
from pathlib import Path

import numpy as np

import pyuffd

ROWS, COLUMNS = 4096, 4096  # of float32: 64 MiB


def main() -> None:
    """Touch a row, a sum of a column, and then load the rest."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.bin"
        np.arange(ROWS * COLUMNS, dtype=np.float32).tofile(image)

        array = pyuffd.lazy_array(pyuffd.FileSource(str(image)), np.float32, (ROWS, COLUMNS))
        target = pyuffd.target_of(array)

        def tell(step: str) -> None:
            print(f"{step:<28} {target.pages - target.missing_pages:>6} of {target.pages} pages are loaded")

        tell("nothing was touched:")
        total = array[512].sum()
        tell(f"row 512 sums to {total:.4g}:")
        pyuffd.touch(array[:64])  # before a system call reads or writes the memory
        tell("the first 64 rows:")
        target.fill()
        target.wait()
        tell("after fill() and wait():")
        array[0, 0] = -1  # ordinary memory: the file does not change
        print(target.close())


if __name__ == "__main__":
    main()
