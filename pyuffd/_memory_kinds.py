"""The ioctls that the running kernel permits for each kind of memory, found by registering memory of each kind."""

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

# By the number of the ioctl. UFFDIO_REGISTER returns a bit for each number (<linux/userfaultfd.h>).
_IOCTLS = {2: "WAKE", 3: "COPY", 4: "ZEROPAGE", 5: "MOVE", 6: "WRITEPROTECT", 7: "CONTINUE", 8: "POISON"}

# These features change what happens at a fault, so they are not asked for together with the others.
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
        ioctls: The ioctls that the kernel permits on the range (ioctl_userfaultfd(2)). Empty if this kind of memory
            cannot be registered in this mode.
        refused: Why the memory cannot be registered. Empty if it can.
    """

    kind: str
    mode: str
    ioctls: tuple[str, ...]
    refused: str


def memory_kinds(features: Feature, user_mode_only: bool) -> tuple[MemoryKind, ...]:
    """Register a page of each kind of memory in each mode, each with a userfaultfd that is closed again.

    Args:
        features: The features that ``UFFDIO_API`` offers.
        user_mode_only: Whether this user may open only userfaultfds that are user mode only.
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
