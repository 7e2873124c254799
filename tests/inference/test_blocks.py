from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.blocks import BlockChain, blocks_for, reusable_blocks
from inference.errors import InvalidRequest
from inference.request import PrefixIdentity

IDENTITY = PrefixIdentity(served_model="smollm2", tokenizer="aa" * 32, template="bb" * 32)
KEY = bytes(range(32))
VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())["blocks"]

token_lists = st.lists(st.integers(0, 2**32 - 1), max_size=100)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_names_are_the_committed_ones(vector: dict[str, object]) -> None:
    identity = PrefixIdentity(**vector["identity"])  # type: ignore[arg-type]
    chain = BlockChain(bytes.fromhex(str(vector["key"])), identity)
    assert chain.root.hex() == vector["root"]
    assert [name.hex() for name in chain.hashes(vector["token_ids"])] == vector["blocks"]  # type: ignore[arg-type]


def test_a_name_is_the_documented_formula() -> None:
    chain = BlockChain(KEY, IDENTITY)
    encoded = [field.encode() for field in ("smollm2", "aa" * 32, "bb" * 32)]
    body = b"".join(len(field).to_bytes(4, "little") + field for field in encoded)
    root = hashlib.blake2b(body, key=KEY, digest_size=16, person=b"rhizome/root/1").digest()
    tokens = range(1000, 1016)
    data = root + struct.pack("<16I", *tokens)
    name = hashlib.blake2b(data, key=KEY, digest_size=16, person=b"rhizome/block/1").digest()
    assert chain.root == root
    assert chain.hashes(tokens) == [name]


@given(token_lists)
def test_only_full_blocks_have_names(tokens: list[int]) -> None:
    names = BlockChain(KEY, IDENTITY).hashes(tokens)
    assert len(names) == len(tokens) // 16
    assert all(len(name) == 16 for name in names)


@given(token_lists, st.integers(0, 6))
def test_extending_equals_hashing_at_once(tokens: list[int], blocks: int) -> None:
    chain = BlockChain(KEY, IDENTITY)
    whole = chain.hashes(tokens)
    blocks = min(blocks, len(whole))
    parent = whole[blocks - 1] if blocks else chain.root
    assert whole[:blocks] + chain.extend(parent, tokens[16 * blocks :]) == whole


@given(token_lists.filter(lambda tokens: len(tokens) >= 16), st.data())
def test_another_token_changes_its_block_and_all_later_ones(
    tokens: list[int], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(tokens) // 16 * 16 - 1))
    changed = [*tokens]
    changed[at] ^= 1
    chain = BlockChain(KEY, IDENTITY)
    pairs = zip(chain.hashes(tokens), chain.hashes(changed), strict=True)
    assert all((left == right) == (block < at // 16) for block, (left, right) in enumerate(pairs))


def test_tenants_and_identities_share_no_name() -> None:
    identities = [
        IDENTITY,
        PrefixIdentity(served_model="smollm", tokenizer="2" + "aa" * 32, template="bb" * 32),
        PrefixIdentity(served_model="smollm2", tokenizer="aa" * 32, template="bc" * 32),
    ]
    keys = [KEY, bytes(32)]
    chains = [BlockChain(key, identity) for key in keys for identity in identities]
    names = [name for chain in chains for name in (chain.root, *chain.hashes(range(64)))]
    assert len(set(names)) == len(names)


def test_wrong_keys_and_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        BlockChain(bytes(31), IDENTITY)
    chain = BlockChain(KEY, IDENTITY)
    for bad in (-1, 2**32, 1.5, "a"):
        with pytest.raises(InvalidRequest) as caught:
            chain.hashes([bad] * 16)  # type: ignore[list-item]
        assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("tokens", "reusable", "holding"),
    [(0, 0, 0), (1, 0, 1), (16, 0, 1), (17, 1, 2), (32, 1, 2), (33, 2, 3)],
)
def test_the_last_prompt_token_is_never_reused(tokens: int, reusable: int, holding: int) -> None:
    assert reusable_blocks(tokens) == reusable
    assert blocks_for(tokens) == holding
