"""The bits of userfaultfd, with the names of ``<linux/userfaultfd.h>`` (Linux 6.18)."""

from enum import IntFlag


class Feature(IntFlag):
    """``UFFD_FEATURE_*``: the features of a ``Userfaultfd`` (ioctl_userfaultfd(2))."""

    PAGEFAULT_FLAG_WP = 1 << 0
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5
    EVENT_UNMAP = 1 << 6
    SIGBUS = 1 << 7
    THREAD_ID = 1 << 8
    MINOR_HUGETLBFS = 1 << 9
    MINOR_SHMEM = 1 << 10
    EXACT_ADDRESS = 1 << 11
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    POISON = 1 << 14
    WP_ASYNC = 1 << 15
    MOVE = 1 << 16

    EVENTS = EVENT_FORK | EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP
    """All event features: fork, and the move, drop and unmap of memory."""


class RegisterMode(IntFlag):
    """``UFFDIO_REGISTER_MODE_*``: the faults for which ``Userfaultfd.register`` registers memory."""

    MISSING = 1 << 0
    WP = 1 << 1
    MINOR = 1 << 2


class FaultFlag(IntFlag):
    """``UFFD_PAGEFAULT_FLAG_*``: the kind of a ``Fault``. A read of a missing page has none of these bits."""

    WRITE = 1 << 0
    WP = 1 << 1
    MINOR = 1 << 2
