"""Numbers of many messages at once, against protobuf."""

import numpy as np
import pytest
from support.criu_images import message

from pyuffd.criu.columns import Columns, IrregularError, padded


def test_columns_decode_what_protobuf_writes() -> None:
    values = [0, 1, 127, 128, 300, (1 << 35) - 1, (1 << 56) - 1, 1 << 56, (1 << 64) - 1]
    parts = [message("vma_entry", start=value, end=value ^ 5).SerializeToString() for value in values]
    ends = np.cumsum([len(part) for part in parts])
    columns = Columns(padded(b"".join(parts)), ends - [len(part) for part in parts], ends)
    assert columns.has(0x08)
    assert columns.take().tolist() == values
    assert columns.has(0x10)
    assert columns.take().tolist() == [value ^ 5 for value in values]
    assert not columns.done


def test_columns_end_where_their_messages_end() -> None:
    data = b"\x08\x81\x01\x08\x81\x01"
    whole, short = (Columns(padded(data), np.array([0, 3]), np.array(ends)) for ends in ([3, 6], [2, 6]))
    assert whole.take().tolist() == [129, 129]
    with pytest.raises(IrregularError):
        short.take()
