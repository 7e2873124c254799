from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ProtocolError
from overlay.forward import (
    TOKENS_MAX,
    Accept,
    Answer,
    End,
    Failed,
    ForwardRequest,
    Progress,
    Refuse,
    Tokens,
    decode_answer,
    decode_request,
    encode,
)

REQUEST = ForwardRequest(
    v=1,
    request_id="0" * 32,
    attempt=0,
    tenant="a" * 32,
    token_id="id",
    chat=True,
    model="m",
    body=b'{"messages": [], "unknown_to_us": {"kept": true}}',
    token_ids=[1, 2, 3],
    emitted=[],
    seed=7,
    deadline_ms=1000,
    hops=1,
)


def test_the_clients_body_travels_as_it_was_sent() -> None:
    assert decode_request(encode(REQUEST)).body == REQUEST.body


@pytest.mark.parametrize(
    "answer",
    [
        Accept(cached_tokens=16, expected_start_ms=5),
        Refuse(code="not_a_member"),
        Tokens(token_ids=[5], text="é", cached_tokens=None),
        Tokens(token_ids=None, text=""),
        Progress(),
        End(finish_reason="stop", prompt_tokens=3, completion_tokens=1, cached_tokens=0),
        Failed(code="engine_failed", message="m", status=502, retryable=True),
    ],
)
def test_every_answer_is_read_as_it_was_written(answer: Answer) -> None:
    assert decode_answer(encode(answer)) == answer


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error_and_nothing_else(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(data)
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"request_id": "0" * 31},
        {"tenant": "../" + "a" * 29},
        {"token_ids": [-1]},
        {"token_ids": [0] * (TOKENS_MAX + 1)},
        {"seed": 1 << 63},
        {"hops": 0},
        {"model": "m" * 257},
        {"surprise": 1},
    ],
)
def test_a_request_outside_its_bounds_is_refused_without_quoting_it(
    change: dict[str, object],
) -> None:
    fields = {"type": "forward", **msgspec.to_builtins(REQUEST, builtin_types=(bytes,)), **change}
    with pytest.raises(ProtocolError) as refused:
        decode_request(msgspec.msgpack.encode(fields))
    assert "kept" not in str(refused.value)
