"""A message of another version says so, whatever else is in it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from overlay.client.messages import decode_ask
from overlay.errors import ProtocolError
from overlay.forward import decode_request


@pytest.mark.parametrize("decode", [decode_request, decode_ask])
def test_a_later_version_is_told_from_a_malformed_message(
    decode: Callable[[bytes], object],
) -> None:
    for fields in ({"v": 2}, {"type": "later", "v": 2, "new": [1]}):
        with pytest.raises(ProtocolError, match="message of version 2, not 1"):
            decode(msgspec.msgpack.encode(fields))
    for fields in ({"v": 1}, {"v": "2"}, {}):
        with pytest.raises(ProtocolError, match="malformed"):
            decode(msgspec.msgpack.encode(fields))
