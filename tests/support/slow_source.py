"""A source whose bytes come when a test says so."""

import numpy as np

import pyuffd
from support.memory import Managed


class SlowSource:
    """Memory whose source is missing memory itself: whoever reads it waits for ``open_gate()``.

    Attributes:
        memory: Is to be served.
        source: Of it.
    """

    def __init__(self) -> None:
        self.memory, self._slow = Managed(pages=10), Managed(pages=10)
        self._gate = pyuffd.Userfaultfd()
        self._gate.register(self._slow.start, self._slow.length)
        self.source = pyuffd.MemorySource(self._slow.mapping.array)

    def open_gate(self) -> None:
        """Let the bytes come."""
        address = np.frombuffer(self._slow.data, np.uint8).ctypes.data
        self._gate.copy(self._slow.start, address, self._slow.length)

    def data(self) -> bytes:
        """The bytes that come."""
        return self._slow.data

    def waiting(self) -> int:
        """How many threads sleep for the bytes."""
        return self._gate.waiting()[1]
