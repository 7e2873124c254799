"""The committed bytes, read by the second reader: the document is enough to read them."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.wire import second_reader as read

TESTS = Path(__file__).parent.parent
DOCUMENT = (TESTS.parent / "docs" / "protocol.md").read_text()
SIGNED = json.loads((TESTS / "security" / "vectors.json").read_text())
WIRE = json.loads((TESTS / "overlay" / "vectors.json").read_text())

PRODUCT = {"overlay", "security", "inference", "chaos"}


def raw(name: str) -> bytes:
    return bytes.fromhex(SIGNED[name] if name in SIGNED else WIRE[name])


def key_of(certificate: str) -> bytes:
    return x509.load_der_x509_certificate(raw(certificate)).public_key().public_bytes_raw()


HOST = key_of("leaf")
TENANT = bytes.fromhex(SIGNED["input_tenant_id"])
EPOCH_KEY, CHAIN_SECRET = raw("input_epoch_key"), raw("input_chain_secret")
GENERATION, EPOCH = int(SIGNED["input_generation"]), int(SIGNED["input_epoch"])


def test_the_second_reader_imports_nothing_of_the_product() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] not in PRODUCT
            elif isinstance(node, ast.Import):
                assert not {each.name.partition(".")[0] for each in node.names} & PRODUCT


def test_ids_follow_from_keys() -> None:
    assert read.peer_id(HOST) == SIGNED["peer_id"]
    for name, certificate in (("overlay_id", "root"), ("issuer_id", "issuer")):
        assert hashlib.sha256(key_of(certificate)).digest()[:16].hex() == SIGNED[name]
    key = x509.load_der_x509_certificate(raw("leaf")).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    label = base64.b32encode(hashlib.sha256(info).digest()).decode().rstrip("=").lower()
    assert SIGNED["dns_name"] == f"{label}.peer.rhizome.internal"


def test_the_leaf_names_its_host_and_overlay() -> None:
    leaf = x509.load_der_x509_certificate(raw("leaf"))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = f"spiffe://{SIGNED['overlay_id']}/host/{SIGNED['peer_id']}"
    assert [name.value for name in names] == [uri, SIGNED["dns_name"]]


FRAMES = {
    "frame_opening": (2, 4 | 1),
    "frame_data_of_the_opener_to_be_continued": (3, 4 | 2),
    "frame_data_of_the_other_side_last": (3, 1),
    "frame_end": (4, 4),
    "frame_window_of_a_stream": (5, 4),
    "frame_window_of_the_connection": (5, 0),
    "frame_reset_cancelled": (6, 4),
    "frame_ping": (7, 0),
    "frame_pong": (8, 0),
    "frame_goaway": (9, 0),
    "frame_of_a_later_kind_that_may_be_skipped": (200, 128),
}


def test_every_frame() -> None:
    assert set(FRAMES) == {name for name in WIRE if name.startswith("frame_")}
    for name, (kind, flags) in FRAMES.items():
        (frame,) = read.frames(raw(name))
        assert (frame.kind, frame.flags) == (kind, flags), name
        assert (frame.stream == 0) == (kind in {7, 8, 9, 200} or name.endswith("connection")), name
    (frame,) = read.frames(raw("frame_opening"))
    assert read.opening(frame.payload) == (30_000, "/rhizome/forward/1", b"body")
    (frame,) = read.frames(raw("frame_goaway"))
    assert read.goaway(frame.payload) == (2, 9, "Revoked")
    together = b"".join(raw(name) for name in FRAMES)
    assert len(read.frames(together)) == len(FRAMES)


def fields_of(section: str, heading: str) -> set[str]:
    """The names in the first column of the table under a heading of the document."""
    text = DOCUMENT.partition(f"\n{section}\n")[2].partition(heading)[2]
    table = re.search(r"(?:^\|.*\n)+", text[text.index("|---") :], re.MULTILINE)
    assert table is not None
    return {
        name.rstrip("?")
        for line in table[0].splitlines()
        for name in re.findall(r"`(\w+\??)`", line.split("|")[1])
    }


@pytest.mark.parametrize("name", ["hello_of_a_peer", "hello_of_a_client"])
def test_hello(name: str) -> None:
    (frame,) = read.frames(raw(name))
    told = read.hello(frame)
    assert set(told) == {"type", *fields_of("## HELLO", "Payload")}
    assert set(told["windows"]) == {"frame_bytes", "stream_bytes", "connection_bytes", "streams"}
    if name == "hello_of_a_client":
        assert (told["role"], told["peer_id"], told["boot_salt"]) == ("client", None, bytes(16))
    else:
        assert (told["role"], told["peer_id"]) == ("peer", SIGNED["peer_id"])


SIGNED_BY_HOST = {
    "signed_head": "head",
    "record": "record",
    "join_request": "join",
    "gossip_head_signed": "head",
    "gossip_delta_signed": "frame",
    "gossip_checkpoint_signed": "frame",
}


@pytest.mark.parametrize("name", SIGNED_BY_HOST)
def test_what_a_host_signs(name: str) -> None:
    found = read.signed(raw(name))
    assert (found.kind, found.signer) == (SIGNED_BY_HOST[name], HOST)
    assert found.overlay.hex() == SIGNED["overlay_id"]


@pytest.mark.parametrize("name", ["revocation", "epoch"])
def test_what_an_issuer_signs(name: str) -> None:
    found = read.signed(raw(name), key_of("issuer"))
    assert (found.kind, found.signer.hex()) == (name, SIGNED["issuer_id"])
    body = read.tagged(found.body, name)
    assert body["v"] == 1
    if name == "revocation":
        assert body["id"] == SIGNED["peer_id"]


def test_an_altered_or_respelled_object_is_refused() -> None:
    data = raw("record")
    for changed in (data[:-1] + b"\0", data[:60] + b"\0" + data[61:], b"\xdc\0\6" + data[1:]):
        with pytest.raises(Exception):  # noqa: B017 - of whatever kind the reader meets first
            read.signed(changed)


def test_the_record() -> None:
    body = read.tagged(read.signed(raw("record")).body, "peer")
    assert set(body) == {"type", *fields_of("### Record", "Body")}
    assert body["leaf"] == raw("leaf")
    assert (body["generation"], body["seq"], body["zone"]) == (5, 1, "attic")
    assert body["boot_salt"] == raw("input_boot_salt")


def test_the_head_and_frames_of_gossip() -> None:
    head = read.tagged(read.signed(raw("gossip_head_signed")).body, "head")
    assert set(head) == {"type", "v", "generation", "hseq", "unix_ms", "load", "streams"}
    for name, checkpoint in (("gossip_delta_signed", False), ("gossip_checkpoint_signed", True)):
        frame = read.tagged(read.signed(raw(name)).body, "frame")
        assert frame["checkpoint"] is checkpoint
        header = frame["stream"] + frame["generation"].to_bytes(8) + frame["seq"].to_bytes(8)
        assert len(header) == len(raw("gossip_frame_header")) == 24
    added, removed, truncated = read.whole(raw("gossip_delta_plain"))
    assert read.tags(added) == sorted(read.tags(added)) == read.tags(raw("gossip_tags"))
    assert (len(removed) % 6, truncated) == (0, False)


def test_keys_of_a_tenant() -> None:
    assert read.derive(CHAIN_SECRET, "chain", TENANT) == raw("chain_key")
    assert read.derive(CHAIN_SECRET, "cache salt", TENANT) == raw("salt")
    assert read.derive(EPOCH_KEY, "tag", TENANT, 16) == raw("tag_key")
    assert read.stream_id(EPOCH_KEY, TENANT, HOST, GENERATION) == raw("stream_id")
    hashes = [bytes.fromhex(each) for each in json.loads(SIGNED["input_hashes"])]
    found = sorted(read.tag(raw("tag_key"), each) for each in hashes)
    assert found == sorted(json.loads(SIGNED["tags"]))


def test_envelopes_are_opened() -> None:
    context = TENANT + EPOCH.to_bytes(4) + GENERATION.to_bytes(8) + HOST + raw("input_boot_salt")
    key = read.sealing_key(EPOCH_KEY, context + SIGNED["input_kind"].encode())
    assert key == raw("sealing_key")
    for number in range(2):
        found = read.opened(key, raw(f"envelope_{number}"), raw("input_header"))
        assert found == (EPOCH, number, raw("input_plain"))


def test_the_ticket() -> None:
    root, issuer, secret, expires_unix_s, addresses, tenants = read.ticket(SIGNED["ticket"])
    assert (root, issuer.hex()) == (raw("root"), SIGNED["issuer_id"])
    assert (len(secret), expires_unix_s, tenants) == (32, 1_800_000_600, [])
    assert addresses == ["192.0.2.1:7402"]


MESSAGES = {
    "forward_": {"forward", "accept", "refuse", "tokens", "progress", "end", "failed"},
    "client_": {"ask", "began", "piece", "done", "refusal"},
    "control_": {
        *("status", "explain", "invite", "token", "leave", "refusal"),
        *("revoke", "revocations", "tokens", "adopt", "adopted"),
        *("tenant-add", "tenant-create", "tenant-list", "tenant-remove", "tenant-rotate"),
        *("tenant", "tenants"),
    },
    "gossip_": {"bundle", "heads", "repair"},
    "revocations_": {"compare", "tell", "part", "taken"},
    "trust_": {"question", "lacking"},
}


NO_MESSAGES = {
    *("gossip_tags", "gossip_delta_plain", "gossip_checkpoint_plain", "gossip_frame_header"),
    *("gossip_delta_signed", "gossip_checkpoint_signed", "gossip_head_body", "gossip_head_signed"),
}
"""Parts of messages."""


@pytest.mark.parametrize("prefix", MESSAGES)
def test_messages_are_maps_of_the_types_that_the_document_has(prefix: str) -> None:
    found = set()
    for name in WIRE:
        if name.startswith(prefix) and name not in NO_MESSAGES:
            message = read.whole(raw(name))
            assert next(iter(message)) == "type"
            found.add(message["type"])
    assert found == MESSAGES[prefix]
    for tag in MESSAGES[prefix]:
        assert f"`{tag}`" in DOCUMENT


def test_a_bundle_has_the_size_of_a_power_of_two() -> None:
    size = len(raw("gossip_bundle_padded"))
    assert size >= 512
    assert size & (size - 1) == 0
