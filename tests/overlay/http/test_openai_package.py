"""The official ``openai`` package as an independent judge, against a real server on loopback.

The client runs in trio too, in the same process; the peer behind the server is a simulated one
whose toy engine takes next to no time.
"""

from __future__ import annotations

import functools
from pathlib import Path

import httpx2
import openai
import pytest
import trio

from inference.toy import ToyConfig
from tests.overlay.http.certificate import make_certificate
from tests.overlay.http.peers import served, token_of
from tests.overlay.peers_world import nothing_runs

CAUTIOUS = ToyConfig(prefill_tokens_per_s=1e9, decode_s_per_token=0.02, end_every=0)
PROMPT = "The river Lanner rises on Mount Ashby and flows north. " * 4


async def test_a_chat_in_one_piece() -> None:
    async with served() as peer, peer.client() as client:
        ask = functools.partial(
            client.chat.completions.create,
            model="toy",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
            ],
            max_completion_tokens=60,
            temperature=0,
            user="somebody",
            metadata={"a": "b"},
        )
        first, second = await ask(), await ask()
        assert first.choices[0].message.content == second.choices[0].message.content
        assert (first.choices[0].message.role, first.model) == ("assistant", "toy")
        assert first.choices[0].finish_reason == "length"
        assert first.usage is not None
        assert first.usage.completion_tokens == 60
        assert second.usage is not None
        assert second.usage.prompt_tokens_details is not None
        assert (second.usage.prompt_tokens_details.cached_tokens or 0) > 16
        assert first._request_id is not None
        assert len(first._request_id) == 32
        assert first._request_id != second._request_id


async def test_a_chat_as_a_stream() -> None:
    async with served() as peer, peer.client() as client:
        whole = await client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=200,
            temperature=0,
        )
        stream = await client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=200,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert whole.usage is not None
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
        assert chunks[-2].choices[0].finish_reason == "length"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        assert text == whole.choices[0].message.content
        assert set(text) & set("éß€語😀")


async def test_completions_both_ways() -> None:
    async with served() as peer, peer.client() as client:
        whole = await client.completions.create(
            model="toy", prompt=PROMPT, max_tokens=40, temperature=0
        )
        stream = await client.completions.create(
            model="toy", prompt=PROMPT, max_tokens=40, temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].text async for chunk in stream])
        assert text == whole.choices[0].text
        assert whole.choices[0].finish_reason == "length"


async def test_models() -> None:
    async with served() as peer, peer.client() as client:
        assert [model.id async for model in client.models.list()] == ["toy"]
        assert (await client.models.retrieve("toy")).owned_by == "rhizome"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("org/other model")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert caught.value.request_id is not None


async def test_errors_are_of_the_packages_classes() -> None:
    async with served() as peer, peer.client() as client:
        create = functools.partial(
            client.chat.completions.create, messages=[{"role": "user", "content": "Hi"}]
        )
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model="toy", n=2)
        assert (refused.value.param, refused.value.code) == ("n", "unsupported_parameter")
        assert refused.value.request_id is not None
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model="toy", extra_body={"tenant": "other"})
        assert refused.value.param == "tenant"
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="other", stream=True)
        assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
        with pytest.raises(openai.APIStatusError) as large:
            await create(model="toy", user="x" * 3_000_000)
        assert large.value.status_code == 413
        async with peer.client("garbage") as stranger:
            with pytest.raises(openai.AuthenticationError) as unknown:
                await stranger.models.list()
            assert unknown.value.code == "invalid_api_key"
            assert unknown.value.request_id is not None
        peer.host.running.draining = True
        with pytest.raises(openai.InternalServerError) as draining:
            await create(model="toy")
        assert draining.value.status_code == 503
        assert draining.value.response.headers["retry-after"] == "5"


@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_leaving_a_stream_frees_the_engine(way: str) -> None:
    async with served(CAUTIOUS) as peer, peer.client() as client:
        with trio.CancelScope() as scope:
            stream = await client.chat.completions.create(
                model="toy",
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=8000,
                stream=True,
            )
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            assert not nothing_runs(peer.host)
            if way == "close":
                await stream.close()
            else:
                scope.cancel()
                await anext(stream)
        while not nothing_runs(peer.host):
            await trio.sleep(0.01)
        answer = await client.completions.create(model="toy", prompt="Hi", max_tokens=1)
        assert answer.usage is not None


async def test_many_clients_at_once() -> None:
    async with served() as peer, peer.client() as client, trio.open_nursery() as nursery:
        texts: dict[int, str] = {}

        async def ask(number: int) -> None:
            stream = await client.chat.completions.create(
                model="toy",
                messages=[{"role": "user", "content": f"question {number % 4}"}],
                max_tokens=20,
                temperature=0,
                stream=True,
            )
            texts[number] = "".join([c.choices[0].delta.content or "" async for c in stream])

        for number in range(24):
            nursery.start_soon(ask, number)
        while len(texts) < 24:
            await trio.sleep(0.01)
        assert len(set(texts.values())) == 4
        assert all(texts[number] == texts[number % 4] for number in texts)


async def test_over_tls(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    async with (
        served(http_cert=str(made.cert), http_key=str(made.key)) as peer,
        peer.client(tls=made.client()) as client,
    ):
        assert peer.url.startswith("https://127.0.0.1:")
        stream = await client.completions.create(
            model="toy", prompt=PROMPT, max_tokens=10, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"


def test_the_blocking_client_too() -> None:
    """As most applications use it: in a thread without an event loop."""

    def ask(url: str, key: str) -> list[str]:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key=key, http_client=httpx2.Client(trust_env=False)
        ) as client:
            stream = client.completions.create(
                model="toy", prompt=PROMPT, max_tokens=10, stream=True
            )
            return [chunk.choices[0].text for chunk in stream]

    async def main() -> None:
        async with served() as peer:
            key = token_of(peer.world, "default")
            texts = await trio.to_thread.run_sync(ask, peer.url, key)
            assert len(texts) > 2

    trio.run(main)
