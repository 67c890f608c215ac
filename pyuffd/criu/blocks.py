"""Compressed pages: a pagemap entry's blocks, each of which is zeros, raw pages or LZ4.

The facts: images/pagemap.proto of CRIU 4.3; criu/compression.c and criu/include/compression.h of its branch criu-dev
(August 2026, checkpoint-restore/criu#2895 and #3115). A stored size of 0 means zeros, the size of the pages means raw
pages, and every other size is that of one LZ4 block without a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyuffd.criu.errors import ImageError

# MAX_REGION_SIZE of criu/include/compression.h.
LARGEST_BLOCK = 4 << 20


@dataclass(frozen=True)
class Blocks:
    """The blocks of one entry.

    Attributes:
        sizes: How many bytes of the pages file each block has.
        offsets: Where each block begins, from the first one's beginning; one more for the end.
        block_bytes: How many bytes of memory a block has; the last one may have less.
        memory_bytes: How many bytes of memory all blocks have.
    """

    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    block_bytes: int
    memory_bytes: int

    @property
    def stored(self) -> int:
        """How many bytes of the pages file the entry has."""
        return int(self.offsets[-1])

    def read(self, start: int, length: int, pread: Callable[[int, int], bytes], name: str) -> bytes:
        """Read memory of the entry, from ``start`` bytes after its beginning; ``pread`` counts from its first block."""
        first, last = start // self.block_bytes, (start + length - 1) // self.block_bytes
        parts = [self._block(index, pread, name) for index in range(first, last + 1)]
        skipped = start - first * self.block_bytes
        return b"".join(parts)[skipped : skipped + length]

    def _block(self, index: int, pread: Callable[[int, int], bytes], name: str) -> bytes:
        memory = min(self.block_bytes, self.memory_bytes - index * self.block_bytes)
        stored = int(self.sizes[index])
        if stored == 0:
            return bytes(memory)
        data = pread(int(self.offsets[index]), stored)
        if stored == memory:
            return data
        return _decompressed(data, memory, f"block {index} of {stored} bytes", name)


def _decompressed(data: bytes, memory: int, what: str, name: str) -> bytes:
    try:
        from lz4 import block
    except ModuleNotFoundError:
        raise ModuleNotFoundError("compressed pages need lz4: pip install 'pyuffd[criu]'", name="lz4") from None
    try:
        found: bytes = block.decompress(data, uncompressed_size=memory)
    except block.LZ4BlockError:
        raise ImageError(name, f"{what} is no LZ4 block of {memory} bytes of memory") from None
    if len(found) != memory:
        raise ImageError(name, f"{what} has {len(found)} bytes of memory, not {memory}")
    return found


def blocks_of(found: Any, pages: int, page_size: int, refuse: Callable[[str], ImageError]) -> Blocks:
    """Check the message ``pagemap_blocks`` of an entry of so many pages."""
    per_block = found.pages_per_block
    if not 0 < per_block <= LARGEST_BLOCK // page_size:
        raise refuse(f"pages_per_block is {per_block}, not 1 to {LARGEST_BLOCK // page_size}")
    sizes = np.array(found.block_sizes, np.int64)
    expected = -(-pages // per_block)
    if len(sizes) != expected:
        raise refuse(f"block_sizes has {len(sizes)} sizes, and {expected} belong to nr_pages {pages}")
    memory = np.full(len(sizes), per_block * page_size, np.int64)
    memory[-1] = pages * page_size - (len(sizes) - 1) * per_block * page_size
    wrong = np.flatnonzero(sizes > memory)
    if len(wrong):
        raise refuse(
            f"block_sizes[{wrong[0]}] is {sizes[wrong[0]]}, more than the {memory[wrong[0]]} bytes of its pages"
        )
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    if offsets[-1] != found.total_payload_size:
        raise refuse(f"total_payload_size is {found.total_payload_size}, and block_sizes add up to {offsets[-1]}")
    return Blocks(sizes, offsets, per_block * page_size, pages * page_size)
