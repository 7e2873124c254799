"""Every form that the overlay writes to a wire, as committed bytes, in both directions.

``python -m tests.overlay.test_vectors`` writes ``vectors.json`` anew, after a wanted change:
changing a line of it is changing the protocol (``docs/protocol.md``). Keys are seeded and
signatures deterministic. What ``security`` makes has its bytes in ``tests/security``, chain hashes
have theirs in ``tests/inference``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zeroconf import ServiceInfo

from inference.request import OutputIdentity, PrefixIdentity, ServedModel
from overlay import forward
from overlay.address import Address
from overlay.client import messages as client
from overlay.control import messages as control
from overlay.control import tenants
from overlay.discovery.announcement import SERVICE_TYPE, Reader, announcements
from overlay.errors import ProtocolError
from overlay.gossip import messages as gossip
from overlay.gossip.stream import frame_header
from overlay.gossip.tagset import pack_tags, unpack_tags
from overlay.ports import PeerHint
from overlay.revocation import messages as revocation
from overlay.revocation.subject import SubjectKind
from overlay.served import Advertised, line_of, read_line
from overlay.transport import enrolment, frame
from overlay.transport.hello import Hello, Role, client_hello, decode_hello, encode_hello
from overlay.transport.limits import Limits, Windows
from overlay.transport.mux import Mux
from overlay.trust import messages as trust
from overlay.trust.book import mark_of
from security.enrolment import make_admission, open_admission, refuse_join
from security.envelope import Opener, Sealer
from security.errors import TicketUsed
from security.issuer_card import make_card
from security.keys import HostKeys
from security.revocation import hash_of, make_revocation
from security.signed import Kind, sign_as_peer, verify_peer
from security.tags import tags_of
from security.tenant import TenantId, TenantName
from security.tenant_keys import TenantKeys
from security.ticket import Ticket
from tests.security.world import NOW_S, Overlay, seeded

FILE = Path(__file__).with_name("vectors.json")

OVERLAY = Overlay(1)
HOST = HostKeys.generate(seeded(2))
SALT = bytes(range(16))
GENERATION = 5
KEYS = TenantKeys.derive(
    tenant_id=TenantId("0f" * 16),
    epoch=3,
    epoch_key=bytes([1]) * 32,
    chain_secret=bytes([2]) * 32,
)
STREAM = KEYS.stream_id(HOST.peer_id, GENERATION)
TAGS = tags_of(KEYS.tag_key, [bytes(16), SALT])
REQUEST_ID, TENANT = "0123456789abcdef" * 2, "0f" * 16
TICKET = Ticket(
    overlay_id=OVERLAY.overlay_id,
    root=OVERLAY.root.der,
    issuer_id=OVERLAY.issuer.issuer_id,
    secret=bytes([7]) * 32,
    expires_unix_s=1_800_000_600,
    addresses=("192.0.2.1:7402",),
    tenants=(TenantName("alpha"),),
)
LEAF = Overlay(1).leaf(HOST)


@dataclass(frozen=True)
class Case:
    """One form: a value, how it is written, and how it is read."""

    value: Any
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def only(data: bytes) -> frame.Frame:
    """The one frame that some bytes are."""
    (found,) = frame.FrameReader(1 << 16).feed(data)
    return found


def framed(kind: int, flags: int, stream: int, payload: bytes = b"") -> Case:
    return Case(frame.Frame(kind, flags, stream, payload), lambda one: frame.encode(*one), only)


def hello(value: Hello) -> Case:
    return Case(value, encode_hello, lambda data: decode_hello(only(data).payload))


FRAMES = {
    "frame_opening": Case(
        frame.Opening("/rhizome/forward/1", 30_000, b"body"),
        lambda one: frame.encode(
            frame.OPEN,
            frame.OPENER | frame.FIN,
            1,
            frame.encode_opening(one.protocol, one.deadline_ms) + one.body,
        ),
        lambda data: frame.decode_opening(only(data).payload),
    ),
    "frame_data_of_the_opener_to_be_continued": framed(
        frame.DATA, frame.OPENER | frame.MORE, 1, b"part"
    ),
    "frame_data_of_the_other_side_last": framed(frame.DATA, frame.FIN, 1, b"rest"),
    "frame_end": framed(frame.END, frame.OPENER, 7),
    "frame_window_of_a_stream": Case(
        131_136,
        lambda cost: frame.encode_u32(frame.WINDOW, frame.OPENER, 1, cost),
        lambda data: frame.decode_u32(only(data).payload),
    ),
    "frame_window_of_the_connection": Case(
        2_097_152,
        lambda cost: frame.encode_u32(frame.WINDOW, 0, 0, cost),
        lambda data: frame.decode_u32(only(data).payload),
    ),
    "frame_reset_cancelled": Case(
        frame.ResetCode.CANCELLED,
        lambda code: frame.encode_u32(frame.RESET, frame.OPENER, 1, code),
        lambda data: frame.decode_u32(only(data).payload),
    ),
    "frame_ping": Case(
        3,
        lambda number: frame.encode_ping(frame.PING, number),
        lambda data: frame.decode_ping(only(data).payload),
    ),
    "frame_pong": Case(
        3,
        lambda number: frame.encode_ping(frame.PONG, number),
        lambda data: frame.decode_ping(only(data).payload),
    ),
    "frame_goaway": Case(
        frame.Goaway(frame.GoawayCode.REFUSED, 9, "Revoked"),
        lambda one: frame.encode_goaway(*one),
        lambda data: frame.decode_goaway(only(data).payload),
    ),
    "frame_of_a_later_kind_that_may_be_skipped": framed(200, frame.OPTIONAL, 0, b"later"),
    "hello_of_a_peer": hello(
        Hello(
            role=Role.PEER,
            overlay_id=OVERLAY.overlay_id,
            peer_id=HOST.peer_id,
            generation=GENERATION,
            boot_salt=SALT,
            windows=Windows(),
            revocations_digest=bytes(16),
            unix_s=NOW_S,
            zone="attic",
        )
    ),
    "hello_of_a_client": hello(client_hello(overlay_id="", windows=Windows(), unix_s=NOW_S)),
}


def message(value: object, module: Any, decode: Callable[[bytes], Any]) -> Case:
    return Case(value, module.encode, decode)


FORWARDS = {
    "forward_request": message(
        forward.ForwardRequest(
            v=1,
            request_id=REQUEST_ID,
            attempt=1,
            tenant=TENANT,
            token_id="ab" * 16,
            chat=True,
            model="smollm2",
            body=b'{"messages":[{"role":"user","content":"Hello"}],"later":1}',
            token_ids=[1, 70_000, 4_294_967_295],
            emitted=[9],
            seed=(1 << 63) - 1,
            deadline_ms=30_000,
            hops=1,
        ),
        forward,
        forward.decode_request,
    ),
    **{
        f"forward_{name}": message(value, forward, forward.decode_answer)
        for name, value in {
            "accept": forward.Accept(cached_tokens=512, expected_start_ms=40),
            "refuse": forward.Refuse(code="not_a_member"),
            "tokens_first": forward.Tokens(token_ids=[5, 6], text="é", cached_tokens=496),
            "tokens_without_ids": forward.Tokens(token_ids=None, text="more"),
            "tokens_chunk": forward.Tokens(
                token_ids=None, text="Hi", chunk=b'{"choices":[]}', ended="tool_calls"
            ),
            "tokens_part": forward.Tokens(token_ids=None, text="", chunk=b'{"ch', more=True),
            "failed_field": forward.Failed(
                code="invalid_request",
                message="priority is refused",
                status=400,
                retryable=False,
                param="priority",
            ),
            "progress": forward.Progress(),
            "end": forward.End(
                finish_reason="stop", prompt_tokens=520, completion_tokens=3, cached_tokens=496
            ),
            "failed": forward.Failed(
                code="engine_failed", message="the engine failed", status=502, retryable=True
            ),
        }.items()
    },
}


HEAD = gossip.Head(
    v=1,
    generation=GENERATION,
    hseq=2,
    unix_ms=1_800_000_000_000,
    load=gossip.LoadHint(4, 1, 2, 128, 950.0, 0.02),
    streams=[gossip.StreamHead(STREAM, 3, 2)],
)
DELTA = gossip.Content(pack_tags(TAGS), pack_tags([7]), truncated=False)
CHECKPOINT = gossip.Content(pack_tags(TAGS), b"", truncated=True)


def sealed_frame(content: gossip.Content, kind: str, seq: int) -> bytes:
    """A frame as its origin makes and signs it."""
    header = frame_header(STREAM, GENERATION, seq)
    sealer = Sealer(KEYS, HOST.peer_id, GENERATION, SALT)
    body = gossip.Frame(
        v=1,
        stream=STREAM,
        generation=GENERATION,
        seq=seq,
        checkpoint=kind == "checkpoint",
        envelope=sealer.seal(kind, header, gossip.encode(content)),
    )
    return sign_as_peer(HOST, OVERLAY.overlay_id, Kind.FRAME, gossip.encode(body))


def opened_frame(data: bytes) -> gossip.Content:
    """What a member reads in a signed frame."""
    signed = verify_peer(data, Kind.FRAME, OVERLAY.overlay_id)
    assert signed.signer == HOST.peer_id
    body = gossip.decode_frame(signed.value)
    header = frame_header(body.stream, body.generation, body.seq)
    kind = "checkpoint" if body.checkpoint else "delta"
    opener = Opener(KEYS, HOST.peer_id, body.generation, SALT)
    plain = opener.open(kind, header, body.envelope)
    return gossip.decode_content(plain)


GOSSIP = {
    "gossip_tags": Case(sorted(TAGS), pack_tags, unpack_tags),
    "gossip_delta_plain": message(DELTA, gossip, gossip.decode_content),
    "gossip_checkpoint_plain": message(CHECKPOINT, gossip, gossip.decode_content),
    "gossip_frame_header": Case(
        (STREAM, GENERATION, 3),
        lambda one: frame_header(*one),
        lambda data: (
            data[:8],
            int.from_bytes(data[8:16], "big"),
            int.from_bytes(data[16:], "big"),
        ),
    ),
    "gossip_delta_signed": Case(DELTA, lambda one: sealed_frame(one, "delta", 3), opened_frame),
    "gossip_checkpoint_signed": Case(
        CHECKPOINT, lambda one: sealed_frame(one, "checkpoint", 2), opened_frame
    ),
    "gossip_head_body": message(HEAD, gossip, gossip.decode_head),
    "gossip_head_signed": Case(
        HEAD,
        lambda one: sign_as_peer(HOST, OVERLAY.overlay_id, Kind.HEAD, gossip.encode(one)),
        lambda data: gossip.decode_head(verify_peer(data, Kind.HEAD, OVERLAY.overlay_id).value),
    ),
    "gossip_bundle_padded": Case(
        gossip.Bundle(record=None, head=b"head", frames=[b"frame"], pad=bytes(458)),
        lambda one: gossip.padded(one.record, one.head, one.frames),
        gossip.decode_message,
    ),
    "gossip_heads": message(
        gossip.Heads(
            known=[gossip.Known(HOST.peer_id, GENERATION, 1, GENERATION, 2, [(STREAM, 3)])],
            epochs=[gossip.KnownEpoch(bytes(16), SALT, 1, 2)],
            answer=True,
        ),
        gossip,
        gossip.decode_message,
    ),
    "gossip_repair": message(
        gossip.Repair(epochs=[b"epoch"], records=[b"record"], heads=[b"head"], frames=[b"frame"]),
        gossip,
        gossip.decode_message,
    ),
    "record_model_line": Case(
        ServedModel(
            name="smollm2",
            context_tokens=8192,
            prefix=PrefixIdentity(served_model="smollm2", tokenizer="t", template="c"),
            output=OutputIdentity(weights="w", quantisation="none", dtype="float32"),
        ),
        lambda model: line_of(model).encode(),
        lambda data: read_line(data.decode()),
    ),
}


LAB = tenants.TenantReply(
    name="lab",
    tenant_id="0f" * 16,
    epoch=2,
    version=3,
    public=False,
    kept=True,
    member=False,
    members=[HOST.peer_id],
)

CLIENTS = {
    "client_ask": message(
        client.Ask(
            v=1,
            credential="token",
            chat=True,
            body=b'{"messages":[{"role":"user","content":"Hello"}]}',
            deadline_ms=600_000,
        ),
        client,
        client.decode_ask,
    ),
    **{
        f"client_{name}": message(value, client, client.decode_reply)
        for name, value in {
            "began": client.Began(request_id=REQUEST_ID, model="smollm2", served_by=HOST.peer_id),
            "piece": client.Piece(text="Hi", token_ids=[5, 6]),
            "piece_chunk": client.Piece(text="Hi", token_ids=None, chunk=b'{"choices":[]}'),
            "done": client.Done(
                finish_reason="length",
                prompt_tokens=520,
                completion_tokens=32,
                cached_tokens=496,
                served_by=HOST.peer_id,
                hops=1,
                resumes=0,
            ),
            "refusal": client.Refusal(
                request_id=REQUEST_ID,
                code="overloaded",
                message="try again shortly",
                status=503,
                param=None,
                retry_after_s=1.0,
            ),
        }.items()
    },
    **{
        f"control_{name}": message(value, control, control.decode_command)
        for name, value in {
            "status": control.GetStatus(),
            "status_of_a_tenant": control.GetStatus(tenant="alpha"),
            "explain": control.Explain(request_id=REQUEST_ID),
            "explain_of_a_tenant": control.Explain(request_id=REQUEST_ID, tenant="alpha"),
            "invite": control.Invite(tenants=["alpha"], expires_s=3600.0),
            "token": control.CreateToken(tenant="alpha", name="app", expires_s=86_400.0),
            "token_with_scopes": control.CreateToken(
                tenant="alpha", name="app", expires_s=86_400.0, scopes=("admin", "status")
            ),
            "revoke": control.Revoke(
                subject=HOST.peer_id, kind=None, unknown=False, reason="lost", sure=False
            ),
            "revoke_as": control.Revoke(
                subject=REQUEST_ID, kind=SubjectKind.TICKET, unknown=True, reason="", sure=True
            ),
            "adopt": control.Adopt(peers=[HOST.peer_id]),
            "revocations": control.ListRevocations(),
            "tokens": control.ListTokens(),
            "leave": control.Leave(),
            "tenant_list": tenants.ListTenants(),
            "tenant_create": tenants.CreateTenant(name="lab"),
            "tenant_create_public": tenants.CreateTenant(name="all", public=True, empty=True),
            "tenant_add": tenants.AddMember(tenant="lab", peer=HOST.peer_id),
            "tenant_remove": tenants.RemoveMember(tenant="lab", peer=HOST.peer_id),
            "tenant_rotate": tenants.RotateTenant(tenant="lab"),
            "tenant_rotate_hard": tenants.RotateTenant(tenant="lab", hard=True),
        }.items()
    },
    **{
        f"control_{name}": message(value, control, control.decode_reply)
        for name, value in {
            "invite_reply": control.InviteReply(
                ticket="rhz1",
                tenants=["alpha"],
                expires_unix_s=1_800_003_600,
                ticket_id=REQUEST_ID,
            ),
            "token_reply": control.TokenReply(
                base_url="http://127.0.0.1:7403/v1",
                api_key="key",
                tenant="alpha",
                name="app",
                expires_unix_s=1_800_086_400,
                scopes=["infer"],
                token_id=REQUEST_ID,
            ),
            "revoke_reply": control.RevokeReply(
                kind="peer", id=HOST.peer_id, name="", already=False, peers=4
            ),
            "adopt_reply": control.AdoptReply(adopted=[HOST.peer_id], already=[]),
            "revocations_reply": control.RevocationsReply(
                total=1,
                revocations=[
                    control.RevocationStatus(
                        id=HOST.peer_id,
                        since_unix_s=1_800_000_000,
                        reason="lost",
                        issuer=OVERLAY.issuer.issuer_id,
                    )
                ],
            ),
            "tokens_reply": control.TokensReply(
                tokens=[
                    control.TokenStatus(
                        token_id=REQUEST_ID,
                        tenant="alpha",
                        name="app",
                        scopes=["infer"],
                        issued_unix_s=1_800_000_000,
                        expires_unix_s=1_800_086_400,
                        revoked=True,
                    )
                ]
            ),
            "leave_reply": control.LeaveReply(),
            "tenant_reply": LAB,
            "tenants_reply": tenants.TenantsReply(tenants=[LAB]),
            "refusal": control.ControlRefusal(message="only the issuer's host can do that"),
            "refusal_of_what_is_not_there": control.ControlRefusal(message="none", usage=False),
        }.items()
    },
}


STATEMENT = make_revocation(OVERLAY.issuer, HOST.peer_id, NOW_S, reason="lost")
REVOCATIONS = {
    f"revocations_{name}": Case(value, revocation.encode, decode)
    for name, value, decode in (
        (
            "compare",
            revocation.Compare(v=1, digest=SALT, marks=hash_of(STATEMENT)[:12]),
            revocation.decode_question,
        ),
        (
            "tell",
            revocation.Tell(v=1, issuers=[OVERLAY.issuer.der], statements=[STATEMENT]),
            revocation.decode_question,
        ),
        (
            "part",
            revocation.Part(
                digest=SALT, issuers=[OVERLAY.issuer.der], statements=[STATEMENT], more=True
            ),
            revocation.decode_part,
        ),
        ("taken", revocation.Taken(digest=SALT), revocation.decode_taken),
    )
}

TRUST = {
    "trust_question": Case(
        trust.Question(
            v=1,
            marks=mark_of(OVERLAY.issuer.der),
            issuers=[OVERLAY.issuer.der],
            roots=[],
            cards=[make_card(OVERLAY.issuer, ["192.0.2.1:7402"], 1)],
        ),
        trust.encode,
        trust.decode_question,
    ),
    "trust_lacking": Case(
        trust.Lacking(issuers=[OVERLAY.issuer.der], roots=[], cards=[]),
        trust.encode,
        trust.decode_lacking,
    ),
}


def read_txt(data: bytes) -> dict[bytes, bytes]:
    """The strings of a TXT record: a length byte and ``key=value`` each."""
    pairs, at = {}, 0
    while at < len(data):
        key, _, value = data[at + 1 : at + 1 + data[at]].partition(b"=")
        pairs[key] = value
        at += 1 + data[at]
    return pairs


def txt_of(address: Address) -> bytes:
    (told,) = announcements(HOST.peer_id, OVERLAY.overlay_id, [address])
    name = f"label.{SERVICE_TYPE}"
    return ServiceInfo(SERVICE_TYPE, name, port=told.port, properties=dict(told.txt)).text


HINT = PeerHint(peer_id=HOST.peer_id, addresses=(Address("192.0.2.2", 7401),))
OURS = (Address("192.0.2.3", 7401),)
READER = Reader(OVERLAY.host().peer_id, OVERLAY.overlay_id, OURS)

AROUND = {
    "mdns_txt": Case(
        HINT,
        lambda hint: txt_of(hint.addresses[0]),
        lambda data: READER.read(read_txt(data), ["192.0.2.2"], 7401),
    ),
    "enrolment_message": Case(
        (enrolment.STATUS_OK, b"request"),
        lambda one: enrolment._HEADER.pack(one[0], len(one[1])) + one[1],
        lambda data: (data[0], data[5 : 5 + int.from_bytes(data[1:5], "big")]),
    ),
    "enrolment_admitted": Case(
        (HOST.peer_id, ()),
        lambda _: make_admission(OVERLAY.issuer, TICKET.ticket_id, LEAF, ()),
        lambda data: (
            (found := open_admission(data, TICKET, HOST, NOW_S)).leaf.peer_id,
            found.tenants,
        ),
    ),
    "enrolment_refused": Case(
        {"type": "refused", "v": 1, "reason": "ticket_used"},
        lambda _: refuse_join(TicketUsed("used")),
        msgspec.msgpack.decode,
    ),
}

CASES = {**FRAMES, **FORWARDS, **GOSSIP, **REVOCATIONS, **TRUST, **CLIENTS, **AROUND}

READ_AS = {
    "record_model_line": Advertised(
        name="smollm2",
        context_tokens=8192,
        prefix=blake2b(b"smollm2\0t\0c", digest_size=8).hexdigest(),
        weights=blake2b(b"w\0none", digest_size=8).hexdigest(),
        dtype="float32",
    )
}
"""What is read where that is not what was written."""


def vectors() -> dict[str, str]:
    found: dict[str, str] = json.loads(FILE.read_text())
    return found


def test_each_form_has_its_bytes() -> None:
    assert sorted(vectors()) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_form_is_written_as_it_was(name: str) -> None:
    case = CASES[name]
    assert case.encode(case.value).hex() == vectors()[name]


@pytest.mark.parametrize("name", CASES)
def test_a_form_that_was_written_is_still_read(name: str) -> None:
    case = CASES[name]
    assert case.decode(bytes.fromhex(vectors()[name])) == READ_AS.get(name, case.value)


def test_the_multiplexer_writes_the_frames_of_the_file() -> None:
    mux = Mux(limits=Limits(), theirs=Windows())
    key = mux.open("/rhizome/forward/1", b"body", deadline_ms=30_000, last=True)
    assert mux.data_to_send(1 << 16).hex() == vectors()["frame_opening"]
    mux.reset(key, frame.ResetCode.CANCELLED)
    mux.ping(3)
    assert (
        mux.data_to_send(1 << 16).hex()
        == vectors()["frame_reset_cancelled"] + vectors()["frame_ping"]
    )
    mux.receive(bytes.fromhex(vectors()["frame_ping"]))
    assert mux.data_to_send(1 << 16).hex() == vectors()["frame_pong"]


@pytest.mark.parametrize(
    ("module", "value", "decode"),
    [
        (forward, FORWARDS["forward_request"].value, forward.decode_request),
        (client, CLIENTS["client_ask"].value, client.decode_ask),
        (revocation, REVOCATIONS["revocations_tell"].value, revocation.decode_question),
    ],
)
def test_an_opening_message_of_another_version_is_refused(
    module: Any, value: Any, decode: Callable[[bytes], object]
) -> None:
    with pytest.raises(ProtocolError):
        decode(module.encode(msgspec.structs.replace(value, v=2)))


def test_a_hello_may_say_more_than_this_version_knows() -> None:
    payload = only(bytes.fromhex(vectors()["hello_of_a_peer"])).payload
    more = {**msgspec.msgpack.decode(payload), "later": [1]}
    assert decode_hello(msgspec.msgpack.encode(more)) == FRAMES["hello_of_a_peer"].value


def test_records_of_oneself_and_of_other_overlays_are_no_hints() -> None:
    txt = read_txt(bytes.fromhex(vectors()["mdns_txt"]))
    assert Reader(HOST.peer_id, OVERLAY.overlay_id, OURS).read(txt, ["192.0.2.2"], 7401) is None
    assert Reader(OVERLAY.host().peer_id, "0" * 32, OURS).read(txt, ["192.0.2.2"], 7401) is None


if __name__ == "__main__":
    made = {name: case.encode(case.value).hex() for name, case in CASES.items()}
    FILE.write_text(json.dumps(made, indent=2) + "\n")
