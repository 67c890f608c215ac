"""The three kernels, built from Debian's source package and kept in a cache."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ._edit import GENERATIONS, edited
from ._missing import SOURCE

_CONFIG = Path(__file__).with_name("kernel.config")

Say = Callable[[str], None]


class BuildFailedError(Exception):
    """A kernel could not be configured or compiled."""


class Kernels:
    """Builds each generation once; another source package or configuration is another folder of the cache."""

    def __init__(self, cache: Path, say: Say) -> None:
        self._folder = cache / f"linux-{_identity()}"
        self._say = say

    def image(self, generation: str) -> Path:
        """Give the bootable image of a generation, and build it if it is not there.

        Raises:
            BuildFailedError: With the end of what the build printed.
            EditFailedError: The source is not as expected.
        """
        assert generation in GENERATIONS
        image = self._folder / f"bzImage-{generation}"
        if not image.exists():
            tree = self._configured_tree()
            self._say(f"building the kernel of generation {generation}")
            self._edit(tree, generation)
            _make(tree, "bzImage")
            (tree / "arch/x86/boot/bzImage").rename(image)
        return image

    def _configured_tree(self) -> Path:
        tree = self._folder / "source"
        if not (tree / ".config").exists():
            self._say(f"unpacking {SOURCE.name}")
            self._folder.mkdir(parents=True, exist_ok=True)
            _unpack(tree)
            _make(tree, f"KCONFIG_ALLCONFIG={_CONFIG}", "allnoconfig")
            _check_config((tree / ".config").read_text())
        return tree

    @staticmethod
    def _edit(tree: Path, generation: str) -> None:
        file, shipped = tree / "fs/userfaultfd.c", tree / "fs/userfaultfd.c.shipped"
        if not shipped.exists():
            shipped.write_bytes(file.read_bytes())
        file.write_text(edited(shipped.read_text(), generation))


def _identity() -> str:
    """Of what the kernels are made from: the package's file and the configuration."""
    status = SOURCE.stat()
    text = f"{status.st_size} {status.st_mtime_ns} {_CONFIG.read_text()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unpack(tree: Path) -> None:
    """Unpack under another name first, so that half a tree is never taken for a whole one."""
    partial = tree.with_name("partial")
    subprocess.run(["rm", "-rf", str(partial), str(tree)], check=True)
    partial.mkdir()
    subprocess.run(["tar", "-xf", str(SOURCE), "-C", str(partial), "--strip-components=1"], check=True)
    partial.rename(tree)


def _make(tree: Path, *targets: str) -> None:
    command = ["make", "-C", str(tree), f"-j{os.cpu_count()}", "ARCH=x86_64", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailedError(f"'{' '.join(command)}' failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _check_config(config: str) -> None:
    """See that no option was silently dropped for want of another."""
    wanted = [line for line in _CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
    dropped = [line for line in wanted if line not in config.splitlines()]
    if dropped:
        raise BuildFailedError(f"this source does not take {', '.join(dropped)}: change kernel.config")
