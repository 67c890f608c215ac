"""The messages of CRIU's page server (criu/page-xfer.c, version 4.2).

A message is ``struct page_server_iov``, in the byte order of the machine. ``nr_pages`` had 32 bits until September 2025
(commit 7e0da4d97), which makes the message 24 bytes long instead of 32; the messages tell no version.
"""

import struct
from dataclasses import dataclass

from pyuffd.criu.schema import PE_PRESENT

ADD_F, GET, CLOSE, FORCE_CLOSE = 6, 7, 0x1023, 0x1024
FOUND = ADD_F | PE_PRESENT << 16
STATUS = struct.Struct("=i")

_COMMAND = 0xFFFF


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        command: What is asked; the flags of a pagemap entry in the high 16 bits.
        pages: How many pages it is about.
        address: The first of them.
        task: The task's pid, as the images have it.
    """

    command: int
    pages: int = 0
    address: int = 0
    task: int = 0

    @property
    def kind(self) -> int:
        """The command without flags."""
        return self.command & _COMMAND


class Layout:
    """How a message is laid out.

    Attributes:
        size: Of a message, in bytes.
    """

    def __init__(self, form: str) -> None:
        self._form = struct.Struct(form)
        self.size = self._form.size

    def pack(self, message: Message) -> bytes:
        """Return the bytes of a message."""
        return self._form.pack(message.command, message.pages, message.address, message.task)

    def unpack(self, data: bytes) -> Message:
        """Return the message that these bytes are."""
        return Message(*self._form.unpack(data))


WIDE = Layout("=I4xQQQ")
NARROW = Layout("=IIQQ")
