"""Every reader of bytes from outside, with inputs that it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from overlay import forward
from overlay.address import Address
from overlay.body import parse_chat, parse_completion
from overlay.client import messages as client
from overlay.config import load_config
from overlay.control import messages as control
from overlay.discovery.announcement import Reader
from overlay.errors import OverlayError
from overlay.gossip.equivocation import shown
from overlay.gossip.messages import decode_content, decode_frame, decode_head, decode_message
from overlay.gossip.tagset import unpack_tags
from overlay.revocation.messages import decode_part, decode_question, decode_taken
from overlay.served import read_line
from overlay.transport import frame
from overlay.transport.alpn import offered_protocols, record_bytes
from overlay.transport.hello import decode_hello
from overlay.transport.limits import Limits, Windows
from overlay.transport.mux import Mux
from overlay.trust import messages as trust
from security.authority import Authority
from security.authority_state import authority_from_bytes
from security.certificate import DAY_S, issue_leaf, overlay_id_of, parse_issuer, parse_leaf
from security.enrolment import open_admission, verify_join_request
from security.envelope import Opener
from security.epoch import open_epoch
from security.errors import SecurityError
from security.http_certificate import make_http_certificate, read_http_certificate
from security.http_request import open_http_answer, verify_http_request
from security.issuer_card import open_card
from security.issuer_request import (
    issuer_key_from_bytes,
    open_issuer_answer,
    open_issuer_request,
)
from security.keys import HostKeys
from security.peer_id import parse_peer_id
from security.record import open_record
from security.renewal import (
    make_renewal,
    open_challenge,
    open_renewal,
    reason_in,
    verify_renew_request,
)
from security.revocation import open_revocation
from security.root_bundle import decode_bundles
from security.root_key import root_of
from security.signed import Kind, claimed_signer, sign_as_peer, verify_peer
from security.ticket import Ticket
from security.token import verify_token
from tests.overlay.test_vectors import read_txt
from tests.security.test_vectors import HTTP_KEY, HTTP_NAMES, KEYS, SALT
from tests.security.world import NOTHING, NOW_S, Overlay, seeded

ROOT = Path(__file__).parent.parent
CORPUS = Path(__file__).parent / "corpus"

OVERLAY = Overlay(1)


def vectors(room: str) -> dict[str, bytes]:
    """The committed forms as bytes; texts as UTF-8."""
    found = {}
    for name, text in json.loads((ROOT / room / "vectors.json").read_text()).items():
        try:
            found[name] = bytes.fromhex(text)
        except (TypeError, ValueError):
            found[name] = str(text).encode()
    return found


WIRE, SIGNED = vectors("overlay"), vectors("security")
HOST = HostKeys.from_bytes(SIGNED["host_keys"])
TICKET = Ticket.parse(SIGNED["ticket"].decode())
RENEWED = make_renewal(
    OVERLAY.issuer,
    issue_leaf(OVERLAY.issuer, HOST.peer_id, seeded(2), NOW_S + DAY_S),
    ["192.0.2.1:7402"],
)
STEWARD = Authority.create(seeded(1), NOW_S, ["alpha"])


def frames(data: bytes) -> None:
    """A stream of frames, and what stands in each."""
    for each in frame.FrameReader(1 << 16).feed(data):
        for read in (
            frame.decode_opening,
            frame.decode_u32,
            frame.decode_ping,
            frame.decode_goaway,
        ):
            typed(read, each.payload)


def connection(data: bytes) -> None:
    """The multiplexer, with a stream of its own open."""
    mux = Mux(limits=Limits(), theirs=Windows())
    mux.open("/rhizome/forward/1", b"body")
    mux.receive(data)
    mux.events()
    mux.data_to_send(1 << 20)


def client_hello(data: bytes) -> None:
    record_bytes(data)
    offered_protocols(data)


def txt(data: bytes) -> None:
    reader = Reader(OVERLAY.host().peer_id, SIGNED["overlay_id"].hex(), [Address("192.0.2.1", 1)])
    reader.read(read_txt(data), [data[:40].decode("latin-1"), "192.0.2.9"], len(data))


def toml(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "rhizome.toml")
        path.write_bytes(data)
        load_config(path)


def text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """A reader of texts, which has them decoded already."""
    return lambda data: parse(data.decode("utf-8", "replace"))


def signed(kind: Kind, read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """A reader of bodies that a host with a valid key has signed, whatever stands in them."""
    return lambda body: read(sign_as_peer(HOST, OVERLAY.overlay_id, kind, body))


def body_of(name: str, kind: Kind) -> bytes:
    return verify_peer(SIGNED[name], kind, OVERLAY.overlay_id).value


def record(data: bytes) -> object:
    return open_record(data, OVERLAY.trust, NOW_S, NOTHING)


def join_request(data: bytes) -> object:
    return verify_join_request(data, OVERLAY.issuer)


def renew_request(data: bytes) -> object:
    return verify_renew_request(data, OVERLAY.issuer)


def http_request(data: bytes) -> object:
    return verify_http_request(data, OVERLAY.overlay_id, HOST.peer_id)


def http_answer(data: bytes) -> object:
    return open_http_answer(data, HTTP_KEY, HTTP_NAMES, HOST.peer_id, OVERLAY.trust, NOW_S)


def under(prefix: str) -> list[bytes]:
    return [data for name, data in WIRE.items() if name.startswith(prefix)]


READERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "frames": (frames, under("frame_") + under("hello_")),
    "connection": (connection, under("frame_")),
    "hello": (decode_hello, [data[10:] for data in under("hello_")]),
    "forward request": (forward.decode_request, [WIRE["forward_request"]]),
    "forward answer": (forward.decode_answer, under("forward_")),
    "gossip message": (decode_message, under("gossip_")),
    "head": (decode_head, [WIRE["gossip_head_body"]]),
    "frame": (decode_frame, [msgspec.msgpack.decode(WIRE["gossip_delta_signed"])[4]]),
    "content": (decode_content, [WIRE["gossip_delta_plain"], WIRE["gossip_checkpoint_plain"]]),
    "tags": (unpack_tags, [WIRE["gossip_tags"]]),
    "two heads": (
        lambda data: shown([data, WIRE["gossip_head_signed"]], OVERLAY.overlay_id),
        [WIRE["gossip_head_signed"]],
    ),
    "ask": (client.decode_ask, [WIRE["client_ask"]]),
    "client's reply": (client.decode_reply, under("client_")),
    "control command": (control.decode_command, under("control_")),
    "control reply": (control.decode_reply, under("control_")),
    "signed object": (
        lambda data: verify_peer(data, Kind.HEAD, OVERLAY.overlay_id),
        [SIGNED["signed_head"], WIRE["gossip_head_signed"]],
    ),
    "signer": (claimed_signer, [SIGNED["signed_head"]]),
    "record": (record, [SIGNED["record"]]),
    "record's body": (signed(Kind.RECORD, record), [body_of("record", Kind.RECORD)]),
    "model line": (text(read_line), [WIRE["record_model_line"]]),
    "revocations asked": (decode_question, under("revocations_")),
    "revocations told": (decode_part, [WIRE["revocations_part"]]),
    "revocations taken": (decode_taken, [WIRE["revocations_taken"]]),
    "revocation": (lambda data: open_revocation(data, OVERLAY.trust), [SIGNED["revocation"]]),
    "issuers asked": (trust.decode_question, [WIRE["trust_question"]]),
    "issuers told": (trust.decode_lacking, [WIRE["trust_lacking"]]),
    "issuer's card": (lambda data: open_card(data, OVERLAY.trust), [SIGNED["issuer_card"]]),
    "request to become an issuer": (
        text(lambda word: open_issuer_request(word, OVERLAY.overlay_id)),
        [SIGNED["issuer_request"]],
    ),
    "answer to it": (
        text(lambda word: open_issuer_answer(word, OVERLAY.trust.roots)),
        [SIGNED["issuer_answer"]],
    ),
    "issuer's key": (issuer_key_from_bytes, [SIGNED["issuer_request"]]),
    "why another issuer": (reason_in, [SIGNED["renewed_and_why"], SIGNED["not_renewed"]]),
    "epoch": (
        lambda data: open_epoch(data, STEWARD.trust, HOST, NOW_S, NOTHING),
        [SIGNED["epoch"]],
    ),
    "envelope": (
        lambda data: Opener(KEYS, HOST.peer_id, 5, SALT).open("delta", b"header", data),
        [SIGNED["envelope_0"], SIGNED["envelope_1"]],
    ),
    "leaf": (parse_leaf, [SIGNED["leaf"], SIGNED["issuer"]]),
    "issuer": (lambda data: parse_issuer(data, OVERLAY.root.der), [SIGNED["issuer"]]),
    "root": (overlay_id_of, [SIGNED["root"], SIGNED["root_next"]]),
    "root bundle": (
        lambda data: OVERLAY.trust.roots.learn([data]),
        [SIGNED["root_bundle_overlap"], SIGNED["root_bundle_drop"]],
    ),
    "root bundles": (decode_bundles, [SIGNED["roots_answer"]]),
    "root's key": (root_of, [SIGNED["root"]]),
    "request to join": (join_request, [SIGNED["join_request"]]),
    "request to join's body": (
        signed(Kind.JOIN, join_request),
        [body_of("join_request", Kind.JOIN)],
    ),
    "request to renew": (
        renew_request,
        [SIGNED["renew_request"], SIGNED["renew_request_of_another_issuer"]],
    ),
    "request to renew's body": (
        signed(Kind.RENEW, renew_request),
        [body_of("renew_request", Kind.RENEW)],
    ),
    "challenge": (open_challenge, [SIGNED["challenge"], SIGNED["not_renewed"]]),
    "renewal": (
        lambda data: open_renewal(data, OVERLAY.trust, parse_leaf(SIGNED["leaf"])),
        [RENEWED, SIGNED["renewed"], SIGNED["not_renewed"]],
    ),
    "request for an HTTP certificate": (http_request, [SIGNED["http_request"]]),
    "HTTP certificate": (http_answer, [SIGNED["http_issued"], SIGNED["http_refused"]]),
    "HTTP certificate that was kept": (
        lambda data: read_http_certificate(data, OVERLAY.trust, NOW_S),
        [make_http_certificate(OVERLAY.issuer, HTTP_NAMES, seeded(3), NOW_S).pem.encode()],
    ),
    "issuer's answer": (
        lambda data: open_admission(data, TICKET, HOST, NOW_S),
        [WIRE["enrolment_admitted"], WIRE["enrolment_refused"]],
    ),
    "ticket": (text(Ticket.parse), [SIGNED["ticket"]]),
    "token": (
        text(lambda word: verify_token(word, OVERLAY.trust, NOW_S, NOTHING)),
        [SIGNED["token"]],
    ),
    "peer id": (text(parse_peer_id), [SIGNED["peer_id"]]),
    "address": (text(Address.parse), [b"192.0.2.1:7401", b"[2001:db8::1]:7401"]),
    "ClientHello": (client_hello, [bytes.fromhex("16030100050100000100") + bytes(40)]),
    "mDNS TXT": (txt, [WIRE["mdns_txt"]]),
    "TOML": (toml, [b'log = "json"\nhttp = "127.0.0.1:8000"\npolicy = "cost"\n']),
    "chat": (parse_chat, [b'{"messages": [{"role": "user", "content": "hi"}], "seed": 1}']),
    "completion": (parse_completion, [b'{"prompt": "hi", "max_tokens": 4, "stop": ["x"]}']),
    "host keys": (HostKeys.from_bytes, [SIGNED["host_keys"]]),
    "issuer's state": (authority_from_bytes, [SIGNED["epoch"]]),
}


def typed(parse: Callable[[bytes], object], data: bytes) -> bool:
    """Whether it was read; anything but a value or a typed error fails the test."""
    try:
        parse(data)
    except (OverlayError, SecurityError):
        return False
    return True


def corpus() -> Iterator[bytes]:
    for path in sorted(CORPUS.glob("*.hex")):
        for line in path.read_text().splitlines():
            word = line.partition("#")[0].strip()
            yield b"" if word == "-" else bytes.fromhex(word)
