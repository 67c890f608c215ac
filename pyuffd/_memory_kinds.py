"""What the running kernel's userfaultfd can do with each kind of memory, found by registering some."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pyuffd import _core
from pyuffd._flags import Feature, RegisterMode

_KINDS: tuple[tuple[str, Literal["anonymous", "memfd", "hugetlb"], bool], ...] = (
    ("anonymous", "anonymous", False),
    ("memfd shared", "memfd", True),
    ("memfd private", "memfd", False),
    ("hugetlb", "hugetlb", False),
)

# By the number of the ioctl, which is its bit in what UFFDIO_REGISTER returns (<linux/userfaultfd.h>).
_IOCTLS = {2: "WAKE", 3: "COPY", 4: "ZEROPAGE", 5: "MOVE", 6: "WRITEPROTECT", 7: "CONTINUE", 8: "POISON"}

# These change what happens to faults: not asked for when the others are.
_NOT_ASKED = (
    Feature.EVENT_FORK
    | Feature.EVENT_REMAP
    | Feature.EVENT_REMOVE
    | Feature.EVENT_UNMAP
    | Feature.SIGBUS
    | Feature.WP_ASYNC
)


@dataclass(frozen=True)
class MemoryKind:
    """One kind of memory in one mode of registration.

    Attributes:
        kind: ``"anonymous"``, ``"memfd shared"``, ``"memfd private"`` or ``"hugetlb"``.
        mode: ``"missing"``, ``"wp"`` or ``"minor"``.
        ioctls: What the range admits, by the names of ioctl_userfaultfd(2); empty where it cannot be registered.
        refused: Why not; empty where it can.
    """

    kind: str
    mode: str
    ioctls: tuple[str, ...]
    refused: str


def memory_kinds(features: Feature, user_mode_only: bool) -> tuple[MemoryKind, ...]:
    """Register a page of each kind in each mode on throw-away descriptors.

    Args:
        features: What ``UFFDIO_API`` offers.
        user_mode_only: Whether no other userfaultfd may be opened.
    """
    return tuple(
        _register(kind, mode, int(features & ~_NOT_ASKED), user_mode_only) for kind in _KINDS for mode in RegisterMode
    )


def _register(
    kind: tuple[str, Literal["anonymous", "memfd", "hugetlb"], bool],
    mode: RegisterMode,
    features: int,
    user_mode_only: bool,
) -> MemoryKind:
    name, memory_kind, shared = kind
    try:
        mapping = _core.Mapping(1, memory_kind, shared)
        uffd = _core.Userfaultfd(features, user_mode_only)
        try:
            admitted = uffd.register(mapping.address, mapping.length, int(mode))
        finally:
            uffd.close()
    except OSError as error:
        return MemoryKind(name, _mode_name(mode), (), error.strerror or os.strerror(error.errno or 0))
    return MemoryKind(name, _mode_name(mode), tuple(_names(admitted)), "")


def _mode_name(mode: RegisterMode) -> str:
    return str(mode.name).lower()


def _names(admitted: int) -> Iterator[str]:
    return (name for number, name in _IOCTLS.items() if admitted >> number & 1)
