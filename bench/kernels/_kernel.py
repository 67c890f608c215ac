"""The kernels, built from Debian's source packages and kept in a cache."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ._missing import source_of
from ._variants import EditFailedError, Variant, edited

_CONFIG = Path(__file__).with_name("kernel.config")
_PATCHES = Path(__file__).with_name("patches")

Say = Callable[[str], None]


class BuildFailedError(Exception):
    """A kernel could not be configured or compiled."""


class Kernels:
    """Builds each variant once; another source package, configuration or edit is built anew."""

    def __init__(self, cache: Path, say: Say) -> None:
        self._cache = cache
        self._say = say

    def image(self, variant: Variant) -> Path:
        """Give the bootable image of a variant, and build it if it is not there.

        Raises:
            BuildFailedError: With the end of what the build printed.
            EditFailedError: The source is not as expected.
        """
        folder = self._cache / f"linux-{variant.series}-{_identity_of_source(variant)}"
        image = folder / f"bzImage-{variant.name}-{_identity_of_edit(variant)}"
        if not image.exists():
            tree = self._configured_tree(folder, variant.series)
            self._say(f"building the kernel {variant.name}")
            _edit(tree, variant)
            _make(tree, "bzImage")
            (tree / "arch/x86/boot/bzImage").rename(image)
        return image

    def _configured_tree(self, folder: Path, series: str) -> Path:
        tree = folder / "source"
        if not (tree / ".config").exists():
            self._say(f"unpacking {source_of(series).name}")
            folder.mkdir(parents=True, exist_ok=True)
            _unpack(source_of(series), tree)
            _make(tree, f"KCONFIG_ALLCONFIG={_CONFIG}", "allnoconfig")
            _check_config((tree / ".config").read_text())
        return tree


def _identity_of_source(variant: Variant) -> str:
    """Of what the kernels of a series are made from: the package's file and the configuration."""
    status = source_of(variant.series).stat()
    return _digest(f"{status.st_size} {status.st_mtime_ns} {_CONFIG.read_text()}")


def _identity_of_edit(variant: Variant) -> str:
    return _digest(variant.statement + "".join((_PATCHES / patch).read_text() for patch in variant.patches))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _edit(tree: Path, variant: Variant) -> None:
    file, shipped = tree / "fs/userfaultfd.c", tree / "fs/userfaultfd.c.shipped"
    if not shipped.exists():
        shipped.write_bytes(file.read_bytes())
    file.write_text(edited(shipped.read_text(), variant))
    for patch in variant.patches:
        command = ["patch", "--directory", str(tree), "--strip=1", "--input", str(_PATCHES / patch)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EditFailedError(f"{patch} does not apply to {source_of(variant.series).name}:\n{done.stdout}")


def _unpack(source: Path, tree: Path) -> None:
    """Unpack under another name first, so that half a tree is never taken for a whole one."""
    partial = tree.with_name("partial")
    subprocess.run(["rm", "-rf", str(partial), str(tree)], check=True)
    partial.mkdir()
    subprocess.run(["tar", "-xf", str(source), "-C", str(partial), "--strip-components=1"], check=True)
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
