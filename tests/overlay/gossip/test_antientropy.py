"""One exchange of heads: each side gets what it lacks, once, and nobody else's word is needed."""

from __future__ import annotations

from overlay.gossip.effects import Effect, Send
from overlay.gossip.messages import Heads, Repair, decode_message
from tests.overlay.gossip.fabric import Fabric, Host

ALPHA = ("alpha",)


def apart() -> tuple[Fabric, Host, Host]:
    """Two hosts that have met, lost each other, and filled their caches since."""
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    fabric.run(6.0)
    fabric.unlink(0, 1)
    for host in fabric.hosts:
        host.cache(host.tenant("alpha"), host.number, 12)
    fabric.run(4.0)
    a, b = fabric.hosts
    return fabric, a, b


def sent(effects: list[Effect]) -> list[bytes]:
    return [effect.data for effect in effects if isinstance(effect, Send)]


def test_one_question_heals_both_sides() -> None:
    fabric, a, b = apart()
    question = a.gossip._heads(answer=False)
    to_a = sent(b.gossip.on_message(a.peer_id, question, fabric.now_s, fabric.unix_s))
    assert [type(decode_message(data)) for data in to_a] == [Repair, Heads]
    to_b = [
        answer
        for data in to_a
        for answer in sent(a.gossip.on_message(b.peer_id, data, fabric.now_s, fabric.unix_s))
    ]
    assert [type(decode_message(data)) for data in to_b] == [Repair]
    for data in to_b:
        assert sent(b.gossip.on_message(a.peer_id, data, fabric.now_s, fabric.unix_s)) == []
    assert fabric.differences() == []


def test_who_lacks_nothing_is_sent_nothing() -> None:
    fabric, a, b = apart()
    fabric.link(0, 1)
    fabric.run(10.0)
    question = a.gossip._heads(answer=False)
    effects = b.gossip.on_message(a.peer_id, question, fabric.now_s, fabric.unix_s)
    assert effects == []


def test_a_repair_holds_the_bytes_that_the_origin_signed() -> None:
    fabric = Fabric([ALPHA, ("other",), ALPHA])
    fabric.link(0, 1)
    a, x, b = fabric.hosts
    a.cache(a.tenant("alpha"), 1, 12)
    fabric.run(6.0)
    told = {data for data in x.received if isinstance(decode_message(data), Repair)}
    question = b.gossip._heads(answer=True)
    (data,) = sent(x.gossip.on_message(b.peer_id, question, fabric.now_s, fabric.unix_s))
    repair = decode_message(data)
    assert isinstance(repair, Repair)
    own = a.gossip.publisher.as_origin().streams
    signed = {frame for stream in own.values() for _, _, frame in stream.after(0)}
    assert signed & set(repair.frames) == signed
    assert a.gossip.publisher.record() in repair.records
    assert data not in told
