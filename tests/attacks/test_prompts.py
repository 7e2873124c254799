"""What an admitted host that is no member can learn of a tenant: sizes and times, and no words."""

from __future__ import annotations

import msgspec
import trio

from chaos.world import until
from inference.request import Namespace
from overlay.gossip.messages import (
    Bundle,
    Heads,
    decode_content,
    decode_frame,
    decode_message,
)
from overlay.gossip.messages import encode as encode_gossip
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
from overlay.gossip.tagset import unpack_tags
from overlay.node import Node
from security.envelope import Opener
from security.epoch import TenantEpoch
from security.signed import SignedObject
from security.tags import tags_of
from security.tenant_keys import TenantKeys
from tests.attacks.adversary import KeyHolder, host_of, member_of_beta
from tests.attacks.victim import ALPHA, BETA, QUESTION, Victim
from tests.attacks.worlds import honest_overlay, simulated

_signed = msgspec.msgpack.Decoder(SignedObject)


async def everything_told(victim: Victim, own: KeyHolder) -> bytes:
    """All bytes of gossip that a host gets that is connected with both, and asks for all."""
    async with own.gossiping(victim.honest[0]) as first, own.gossiping(victim.honest[1]) as second:
        for say in (first, second):
            await say(encode_gossip(Heads(known=[], epochs=[], answer=False)))
        await until(lambda: own.heard().frames)
        for _ in range(5):
            await victim.ask_everybody()
            await trio.sleep(2)
    return b"".join(own.messages)


def tags_read(victim: Victim, own: KeyHolder, epoch: TenantEpoch) -> set[int]:
    """All tags in the frames that it was told, as who holds a tenant's keys reads them."""
    found: set[int] = set()
    for data in own.heard().frames:
        frame = decode_frame(_signed.decode(data).body)
        for node in victim.nodes:
            if epoch.keys.stream_id(node.peer_id, node.generation) == frame.stream:
                opener = Opener(epoch.keys, node.peer_id, node.generation, node.boot_salt)
                kind = CHECKPOINT if frame.checkpoint else DELTA
                header = frame_header(frame.stream, frame.generation, frame.seq)
                content = decode_content(opener.open(kind, header, frame.envelope))
                found.update(unpack_tags(content.added))
    return found


def tags_held(node: Node, epoch: TenantEpoch) -> set[int]:
    """The tags of all that a host has cached for a tenant."""
    tree = node.knowledge.gossip.forest.tree(Namespace(epoch.tenant_id))
    return set(tags_of(epoch.keys.tag_key, tree.digest.blocks()))


def secrets_of(victim: Victim, tenant: str) -> dict[str, bytes]:
    """What nobody outside a tenant may see, as it stands in memory."""
    node = victim.nodes[0]
    epoch = node.tenants.named(tenant)
    assert epoch is not None
    found = {
        "tenant id": epoch.tenant_id.encode(),
        "tenant id in bytes": bytes.fromhex(epoch.tenant_id),
        "tenant name": b'"%s"' % tenant.encode(),
        "tenant name in msgpack": b"\xa5" + tenant.encode(),
        "prompt": QUESTION.encode()[:24],
        "token ids": msgspec.msgpack.encode([ord(c) for c in QUESTION[:8]])[1:],
    }
    keys: TenantKeys = epoch.keys
    for name in ("tag_key", "chain_key", "salt"):
        found[name] = getattr(keys, name)
    for other in victim.nodes:
        tree = other.knowledge.gossip.forest.tree(Namespace(epoch.tenant_id))
        for number, block in enumerate(tree.digest.blocks()):
            found[f"hash {number} of {other.peer_id[-4:]}"] = bytes(block)
            tag = next(iter(tags_of(keys.tag_key, [block])))
            found[f"tag {number} of {other.peer_id[-4:]}"] = tag.to_bytes(6, "big")
    return found


@simulated
async def test_nothing_that_is_told_to_a_host_of_no_tenant_names_one() -> None:
    """A capture of everything that it receives has no name, id, key, hash, tag or word."""
    async with honest_overlay() as victim:
        own = host_of(victim)
        async with victim.unharmed(by=own.peer_id):
            capture = await everything_told(victim, own)
            assert len(capture) > 4000
            for tenant in (ALPHA, BETA):
                for name, secret in secrets_of(victim, tenant).items():
                    assert secret not in capture, name
        # The control: what it may know is there.
        for node in victim.nodes:
            assert any(
                node.peer_id.encode() in message or node.addresses[0].host.encode() in message
                for message in own.messages
            )


@simulated
async def test_guessing_a_prompt_through_digests() -> None:
    """It has the very prompt: neither its own tenant's keys nor captured frames confirm it."""
    async with honest_overlay(policy="local") as victim:
        own = member_of_beta(victim)
        alpha, beta = (victim.nodes[0].tenants.named(name) for name in (ALPHA, BETA))
        assert alpha is not None
        assert beta is not None
        async with victim.unharmed(by=own.peer_id):
            capture = await everything_told(victim, own)
            tree = victim.nodes[0].knowledge.gossip.forest.tree(Namespace(alpha.tenant_id))
            guessed = list(tree.digest.blocks())
            assert guessed
            # The chain hashes of the right prompt, had it alpha's chain key; tagged with beta's.
            for tag in tags_of(beta.keys.tag_key, guessed):
                assert tag.to_bytes(6, "big") not in capture
            # The control: with its tenant's keys it reads what that has cached, at both hosts.
            read = tags_read(victim, own, beta)
            for node in victim.nodes:
                assert tags_held(node, beta)
                assert tags_held(node, beta) <= read
            # Nor does anything that beta's members can open tell of alpha's.
            for keys in (alpha.keys, beta.keys):
                assert not read & set(tags_of(keys.tag_key, guessed))


@simulated
async def test_the_same_prompt_is_cold_for_another_tenant() -> None:
    """By what a client is told of its own request: nothing of alpha's is ever a hit for beta."""
    async with honest_overlay(policy="local") as victim:
        host, text = victim.honest[0], "a prompt of alpha's alone " * 40
        await victim.world.ask(host, text, tenant=ALPHA)
        warm = await victim.world.ask(host, text, tenant=ALPHA)
        cold = await victim.world.ask(host, text, tenant=BETA)
        assert warm.finished.usage.cached_tokens > 256
        assert cold.finished.usage.cached_tokens < 64  # the template's own beginning at most
        again = await victim.world.ask(host, text, tenant=BETA)
        assert again.finished.usage.cached_tokens == warm.finished.usage.cached_tokens


@simulated
async def test_one_tenants_frames_look_the_same_whatever_is_asked() -> None:
    """Bundles have sizes of powers of two: two prompts of one length give the same sizes."""
    sizes = []
    for word in ("yes", "not"):
        async with honest_overlay(policy="local") as victim:
            own = host_of(victim)
            async with own.gossiping(victim.honest[0]):
                await victim.world.ask(victim.honest[0], f"{word} " * 100, tenant=ALPHA)
                await trio.sleep(10)
            bundles = [each for each in own.messages if isinstance(decode_message(each), Bundle)]
            assert bundles
            assert all(len(each) & (len(each) - 1) == 0 for each in bundles)
            sizes.append([len(each) for each in own.messages])
    assert sizes[0] == sizes[1]
