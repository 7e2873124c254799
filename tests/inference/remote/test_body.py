"""The client's body reaches the server as it is, except for what must be ours."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference.errors import InvalidRequest
from inference.remote.body import CHAT_PATH, TEXT_PATH, Upstream, tokens_left, upstream_of
from inference.remote.kinds import KINDS, REFUSED, ServerKind
from inference.remote.settings import RemoteKind
from inference.request import EngineRequest, Namespace, Sampling

SAID = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
REQUEST = EngineRequest(
    request_id="r",
    namespace=Namespace("a"),
    chain_key=b"a" * 32,
    model="m",
    token_ids=(1, 2, 3),
    sampling=Sampling(seed=5, temperature=0.5, top_k=4, max_tokens=10, stop=("x",)),
    chat=True,
    cache_salt="salt of a",
)
VLLM = KINDS[RemoteKind.VLLM]


def asked_for(
    request: EngineRequest, kind: ServerKind, *, gives_ids: bool, fetches: bool = False
) -> Upstream:
    return upstream_of(
        request, kind, model="m", context_tokens=100, gives_ids=gives_ids, fetches=fetches
    )


def sent(
    kind: RemoteKind = RemoteKind.VLLM,
    *,
    gives_ids: bool = True,
    fetches: bool = False,
    **fields: Any,
) -> tuple[Upstream, dict[str, Any]]:
    given = {"model": "shown to clients", "messages": SAID} | fields
    request = replace(REQUEST, body=json.dumps(given).encode())
    upstream = asked_for(request, KINDS[kind], gives_ids=gives_ids, fetches=fetches)
    return upstream, json.loads(upstream.body)


def test_a_body_is_passed_on_in_its_order_with_model_and_salt() -> None:
    fields = {"temperature": 0.1, "tools": [{"b": 1, "a": 2}], "reasoning_effort": "low", "x": None}
    upstream, body = sent(**fields)
    assert list(body) == ["model", "messages", *fields, "cache_salt"]
    assert body == {"model": "m", "messages": SAID, **fields, "cache_salt": "salt of a"}
    assert (upstream.path, upstream.stream, upstream.choices) == (CHAT_PATH, False, 1)


def test_a_clients_salt_is_never_used() -> None:
    _, body = sent(cache_salt="of another tenant", kv_transfer_params={"remote_host": "x"})
    assert body["cache_salt"] == "salt of a"
    assert "kv_transfer_params" not in body
    for kind in (RemoteKind.LLAMACPP, RemoteKind.OLLAMA, RemoteKind.OPENAI):
        assert "cache_salt" not in sent(kind, cache_salt="x")[1]


@pytest.mark.parametrize("kind", list(RemoteKind))
@pytest.mark.parametrize("field", sorted(REFUSED))
def test_what_reaches_past_the_request_is_refused_by_name(kind: RemoteKind, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(kind, **{field: 0})
    assert caught.value.param == field
    assert field not in sent(kind, **{field: None})[1]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": "file:///etc/passwd"},
        {"type": "input_audio", "audio_url": {"url": "https://x"}},
        {"type": "video", "video": {"url": "ftp://x"}},
        {"type": "image", "image": "http://x"},
        *(
            {"type": kind, "text": "hi", "image_url": "http://169.254.169.254/"}
            for kind in ("text", "input_text", "refusal", "thinking", "reasoning", "new", None)
        ),
    ],
)
def test_a_server_is_not_made_to_fetch(part: dict[str, Any]) -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "see http://x"}, part]}]
    with pytest.raises(InvalidRequest) as caught:
        sent(messages=said)
    assert caught.value.param == "messages"
    assert sent(messages=said, fetches=True)[1]["messages"] == said


def test_a_part_need_not_be_in_a_list() -> None:
    part = {"type": "image_url", "image_url": "http://x"}
    with pytest.raises(InvalidRequest):
        sent(messages=[{"role": "user", "content": part}])


@pytest.mark.parametrize("fetches", [True, False])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "hi", "uuid": "u", "image_url": "http://169.254.169.254/"},
        {"type": "image_url", "image_url": None, "uuid": "of another tenant"},
        {"type": "image_embeds"},
        {"type": "prompt_embeds", "data": "AA"},
        *(
            {"type": kind, "text": "hi", f"{name}_embeds": "AA"}
            for kind in ("text", "image_url", None)
            for name in ("image", "audio", "video", "prompt")
        ),
    ],
)
def test_tensors_and_shared_names_of_a_part_are_refused(
    part: dict[str, Any], fetches: bool
) -> None:
    """vLLM goes by a part's other fields where it has a ``uuid``, whatever its type is."""
    with pytest.raises(InvalidRequest) as caught:
        sent(messages=[{"role": "user", "content": [part]}], fetches=fetches)
    assert caught.value.param == "messages"


def test_content_itself_is_passed_on() -> None:
    said = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
        }
    ]
    assert sent(messages=said)[1]["messages"] == said


def test_usage_of_a_stream_is_always_asked_for() -> None:
    upstream, body = sent(stream=True)
    assert upstream.hide_usage
    assert body["stream_options"] == {"include_usage": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    upstream, body = sent(stream=True, stream_options=options)
    assert not upstream.hide_usage
    assert body["stream_options"] == options
    upstream, body = sent(stream=True, stream_options={"include_usage": False})
    assert upstream.hide_usage
    assert body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent()[1]


@pytest.mark.parametrize(
    "fields",
    [{}, {"n": 1}, {"tools": []}, {"stop": None}, {"seed": 3, "top_k": 1}, {"logprobs": False}],
)
def test_tokens_of_a_plain_answer_are_asked_for(fields: dict[str, Any]) -> None:
    upstream, body = sent(stream=True, **fields)
    assert body["return_token_ids"] is True
    assert upstream.has_ids
    assert upstream.hide_ids
    upstream, _ = sent(stream=True, return_token_ids=True, **fields)
    assert (upstream.has_ids, upstream.hide_ids) == (True, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"stop": ["x"]},
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"frequency_penalty": 0.5},
        {"something_new": 1},
    ],
)
def test_no_tokens_are_asked_for_where_they_could_not_be_gone_on_from(
    fields: dict[str, Any],
) -> None:
    upstream, body = sent(stream=True, **fields)
    assert not upstream.has_ids
    assert "return_token_ids" not in body


def test_no_tokens_are_asked_for_without_a_stream_or_a_tokenizer() -> None:
    assert "return_token_ids" not in sent()[1]
    assert "return_token_ids" not in sent(stream=True, gives_ids=False)[1]
    assert "return_token_ids" not in sent(RemoteKind.LLAMACPP, stream=True)[1]


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (1, 1), (3, 3), (True, 1)])
def test_choices_are_counted(n: object, choices: int) -> None:
    assert sent(n=n)[0].choices == choices


@pytest.mark.parametrize("n", [0, -1, 129])
def test_an_absurd_number_of_choices_is_refused(n: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(n=n)
    assert caught.value.param == "n"


def test_several_prompts_are_several_choices() -> None:
    body = json.dumps({"prompt": ["a", "b"], "n": 2}).encode()
    upstream = asked_for(replace(REQUEST, chat=False, body=body), VLLM, gives_ids=True)
    assert (upstream.path, upstream.choices) == (TEXT_PATH, 4)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"n":NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        asked_for(replace(REQUEST, body=body), VLLM, gives_ids=True)


@pytest.mark.parametrize(
    "field",
    [
        b'"user":"\\ud800"',
        b'"x":1e999',
        b'"tools":[{"a":-1e999}]',
        *(b'"x":' + b"[" * depth + b"]" * depth for depth in range(900, 1000, 5)),
    ],
    ids=lambda field: str(field[:20]),
)
def test_what_cannot_be_written_again_is_the_callers_error(field: bytes) -> None:
    request = replace(REQUEST, body=b'{"messages":[],' + field + b"}")
    try:
        upstream = asked_for(request, VLLM, gives_ids=True)
    except InvalidRequest:
        return
    assert field.startswith(b'"x":[')
    assert field in upstream.body


def test_a_continuation_is_a_plain_completion_of_all_tokens() -> None:
    request = replace(REQUEST, emitted=(7, 8), body=b'{"messages":[]}')
    upstream = asked_for(request, VLLM, gives_ids=True)
    assert json.loads(upstream.body) == {
        "model": "m",
        "prompt": [1, 2, 3, 7, 8],
        "max_tokens": 8,
        "temperature": 0.5,
        "top_k": 4,
        "stop": ["x"],
        "seed": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "cache_salt": "salt of a",
    }
    assert upstream.path == TEXT_PATH
    assert not upstream.passes_chunks
    assert tokens_left(request) == 8


def continued(kind: RemoteKind = RemoteKind.VLLM, **sampling: Any) -> dict[str, Any]:
    given = replace(REQUEST, emitted=(7, 8), sampling=Sampling(seed=5, **sampling))
    body: dict[str, Any] = json.loads(asked_for(given, KINDS[kind], gives_ids=True).body)
    return body


@pytest.mark.parametrize(("most", "left"), [(None, 95), (10, 8), (10_000, 95)])
def test_a_continuation_always_says_how_long_it_may_be(most: int | None, left: int) -> None:
    """A server's text completions have 16 tokens where nothing is said."""
    assert continued(max_tokens=most)["max_tokens"] == left


def test_no_limit_of_a_continuation_is_said_as_the_server_does() -> None:
    assert continued(top_k=0)["top_k"] == 0
    assert continued(RemoteKind.SGLANG, top_k=0)["top_k"] == -1
    assert continued(RemoteKind.SGLANG, top_k=3)["top_k"] == 3
    assert "top_k" not in continued(RemoteKind.SGLANG)


def test_only_some_servers_go_on_with_an_answer() -> None:
    request = replace(REQUEST, emitted=(7,))
    for kind, gives_ids in ((RemoteKind.LLAMACPP, True), (RemoteKind.VLLM, False)):
        with pytest.raises(InvalidRequest):
            asked_for(request, KINDS[kind], gives_ids=gives_ids)
    with pytest.raises(InvalidRequest):
        asked_for(replace(request, token_ids=()), VLLM, gives_ids=True)
