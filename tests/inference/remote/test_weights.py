"""Two peers' answers are one only where the weights behind them are known to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.remote.local_model import find_local, find_weights
from inference.remote.preflight import Preflight, look
from inference.remote.server import Server
from inference.remote.settings import RemoteKind
from inference.store.convert import SOURCE_FILE
from tests.inference.bench import save_tokenizer
from tests.inference.remote.bench import engine_only, secrets, settings_of
from tests.inference.remote.fake_server import FakeServer

NOT_TOLD = "its weights are not told"


def save_weights(folder: Path, weights: bytes = b"weights", **config: Any) -> Path:
    """A folder with weights, as far as anybody here looks at them."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def looked(fake: FakeServer, *, own: str, **given: Any) -> Preflight:
    async with fake.running():
        settings = settings_of(fake, **given)
        return await look(Server(settings), settings, secret=secrets(), own=own)


async def identity(fake: FakeServer, *, own: str = "me", **given: Any) -> tuple[str, str]:
    """What the weights of the only model are called."""
    found = await looked(fake, own=own, **given)
    output = found.models[0].output
    told = not any(NOT_TOLD in words for words in found.degraded)
    assert told == (not output.weights.startswith("own:"))
    return output.weights, output.quantisation


@pytest.mark.parametrize("kind", [RemoteKind.VLLM, RemoteKind.SGLANG, RemoteKind.OPENAI])
async def test_weights_that_are_not_told_are_like_nobody_elses(kind: RemoteKind) -> None:
    mine = await identity(FakeServer(kind), own="me")
    assert mine == await identity(FakeServer(kind), own="me")
    assert mine != await identity(FakeServer(kind), own="you")
    assert mine != await identity(FakeServer(RemoteKind.OLLAMA), own="me")


async def test_the_name_for_what_is_not_told_is_kept_while_the_engine_lives() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with fake.running(), engine_only(fake) as bench:
        first = bench.engine.capabilities().models[0].output
        fake.models = ("toy", "another")
        await bench.until(lambda: len(bench.pictures) == 2)
        assert bench.engine.capabilities().models[0].output == first
    assert any(NOT_TOLD in words for words in bench.preflight.degraded)


async def test_a_tokenizers_folder_says_nothing_of_weights(tmp_path: Path) -> None:
    save_weights(tmp_path)
    save_tokenizer(tmp_path)
    fake = FakeServer(RemoteKind.OLLAMA, models=("a:q4", "b:other"))
    found = await looked(fake, own="me", tokenizer=str(tmp_path))
    local = find_weights(str(tmp_path))
    assert local is not None
    weights = [model.output.weights for model in found.models]
    assert local.digest not in weights
    assert weights[0] != weights[1]
    one = await looked(FakeServer(RemoteKind.OPENAI), own="me", tokenizer=str(tmp_path))
    assert one.models[0].output.weights == "own:me:toy"


async def test_the_folder_that_a_server_has_loaded_names_its_weights(tmp_path: Path) -> None:
    plain = save_weights(tmp_path / "plain")
    stored = save_weights(
        tmp_path / "stored", b"other weights", quantization_config={"quant_method": "awq"}
    )
    here = await identity(FakeServer(RemoteKind.VLLM, root=str(plain)), own="me")
    assert here == await identity(FakeServer(RemoteKind.VLLM, root=str(plain)), own="you")
    assert here[1] == "none"
    other = await identity(FakeServer(RemoteKind.VLLM, root=str(stored)))
    assert other[0] != here[0]
    assert other[1] == "awq"


async def test_sglang_tells_its_folder_and_what_it_does_to_the_weights(tmp_path: Path) -> None:
    folder = str(save_weights(tmp_path))
    plain = FakeServer(RemoteKind.SGLANG, more_info={"model_path": folder, "quantization": None})
    online = FakeServer(RemoteKind.SGLANG, more_info={"model_path": folder, "quantization": "fp8"})
    weights, quantisation = await identity(plain)
    assert quantisation == "none"
    assert await identity(online) == (weights, "fp8")


async def test_ollama_names_the_weights_of_each_model() -> None:
    told = {"a": "1" * 64, "b": "2" * 64}
    found = await looked(FakeServer(RemoteKind.OLLAMA, models=("a", "b"), tags=told), own="me")
    assert [model.output.weights for model in found.models] == ["1" * 64, "2" * 64]
    assert {model.output.quantisation for model in found.models} == {"Q4_0"}


async def test_llamacpp_tells_its_file(tmp_path: Path) -> None:
    names = ("a.gguf", "b.gguf", "c-00001-of-00002.gguf", "c-00002-of-00002.gguf")
    files = [tmp_path / name for name in names]
    for file in files[:3]:
        file.write_bytes(file.name.encode() * 100)
    given = [FakeServer(RemoteKind.LLAMACPP, weights_file=str(file)) for file in files]
    found = [await identity(each) for each in (*given[:3], given[0])]
    assert len({weights for weights, _ in found}) == 3
    assert found[0] == found[3]
    # All parts of a split model count.
    files[3].write_bytes(b"more")
    assert await identity(given[2]) != found[2]
    gone = FakeServer(RemoteKind.LLAMACPP, weights_file=str(tmp_path / "gone.gguf"))
    assert (await identity(gone))[0] == "own:me:toy"


async def test_an_adapters_folder_is_not_the_whole_of_its_weights(tmp_path: Path) -> None:
    class WithParent(FakeServer):
        def _card(self, name: str) -> dict[str, Any]:
            return super()._card(name) | {"parent": "base"}

    fake = WithParent(RemoteKind.VLLM, root=str(save_weights(tmp_path)))
    assert (await identity(fake))[0] == "own:me:toy"


@pytest.mark.parametrize(
    "root", ["", "toy", "./toy", "/nowhere", "no/such-model", "x" * 5000, "/a\x00b", "/dev/null/x"]
)
def test_roots_that_are_no_place_here(root: str) -> None:
    assert find_weights(root) is None


def test_a_folder_is_not_looked_for_beside_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's own folder is another one than ours."""
    save_weights(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    assert find_weights("toy") is None
    assert find_weights("./toy") is None
    assert find_weights(str(tmp_path / "toy")) is not None


def test_a_converted_folder_is_the_model_that_it_was_made_of(tmp_path: Path) -> None:
    """So a server of such a folder and the embedded engine can go on with each other's answers."""
    save_tokenizer(tmp_path)
    save_weights(tmp_path)
    plain = find_weights(str(tmp_path))
    source = {"name": "m", "quantisation": "Q4_1", "sha256": "ab" * 32}
    (tmp_path / SOURCE_FILE).write_text(json.dumps(source))
    made, read = find_weights(str(tmp_path)), find_local([str(tmp_path)], context_tokens=64)
    assert plain is not None
    assert made is not None
    assert (made.digest, made.quantisation) == ("ab" * 32, "Q4_1")
    assert plain.digest != made.digest
    assert read.tokenizer is not None
    assert read.tokenizer.digest == "ab" * 32


async def test_long_words_of_a_server_are_cut(tmp_path: Path) -> None:
    info = {"model_path": str(save_weights(tmp_path)), "dtype": "d" * 200, "quantization": "q" * 99}
    found = await looked(FakeServer(RemoteKind.SGLANG, more_info=info), own="me")
    output = found.models[0].output
    assert (output.dtype, output.quantisation) == ("d" * 32, "q" * 32)


@pytest.mark.parametrize("kind", [RemoteKind.VLLM, RemoteKind.SGLANG])
async def test_a_hub_id_names_weights_that_are_in_the_servers_own_container(
    kind: RemoteKind,
) -> None:
    given = {"more_info": {"model_path": "org/model"}} if kind is RemoteKind.SGLANG else {}
    fake = FakeServer(kind, root="org/model", **given)
    assert (await identity(fake))[0] == "hub:org/model"
    assert (await identity(FakeServer(RemoteKind.OPENAI)))[0] == "own:me:toy"
