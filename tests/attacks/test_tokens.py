"""Bearer tokens that no issuer of the overlay has made, or not for this: the HTTP face and port."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chaos.entropy import SeededEntropy
from overlay.client.messages import PROTOCOL, Ask, Refusal, Reply, decode_reply, encode
from overlay.quotas import Quota, QuotaLimits, Quotas
from overlay.request import Scope
from overlay.transport.connection import Connection
from security.certificate import IssuerKey
from security.keys import HostKeys
from security.token import issue_token
from tests.attacks.adversary import Stranger, member_of_beta, revoke
from tests.attacks.faces import Face, code_of, faced_overlay
from tests.attacks.victim import ALPHA, BETA
from tests.attacks.worlds import honest_overlay, simulated


class TokenForger:
    """Holds a good token of beta, the issuer's certificate, and keys of its own."""

    def __init__(self, face: Face) -> None:
        self.victim = face.victim
        self.good = face.token()
        authority = face.victim.world.authority
        assert authority is not None
        self.issuer = authority.issuer  # its public half alone is used, but where a test says so
        self.public = self.issuer.private.public_key()
        self.own = Ed25519PrivateKey.from_private_bytes(SeededEntropy(1, "forger").secret(32))

    @property
    def claims(self) -> dict[str, object]:
        return jwt.decode(self.good, options={"verify_signature": False})

    def unsigned(self, header: dict[str, object], claims: dict[str, object]) -> str:
        return f"{part(header)}.{part(claims)}."

    def none(self, name: str) -> str:
        return self.unsigned({"alg": name, "typ": "JWT", "kid": self.issuer.issuer_id}, self.claims)

    def by_public_key(self, secret: bytes) -> str:
        """HS256, with what everybody knows as the secret."""
        header = {"alg": "HS256", "typ": "JWT", "kid": self.issuer.issuer_id}
        text = f"{part(header)}.{part(self.claims)}"
        mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        return f"{text}.{b64(mac.sign(text.encode(), secret))}"

    def by_own_key(self, **header: object) -> str:
        kid = {"kid": self.issuer.issuer_id}
        return jwt.encode(self.claims, self.own, algorithm="EdDSA", headers={**kid, **header})

    def altered(self, **claims: object) -> str:
        """Other claims under the good signature."""
        header, _, signature = self.good.split(".")
        return f"{header}.{part({**self.claims, **claims})}.{signature}"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def part(value: dict[str, object]) -> str:
    return b64(json.dumps(value).encode())


def jwk(forger: TokenForger) -> dict[str, object]:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(forger.own.public_key().public_bytes_raw())}


def spki(forger: TokenForger, encoding: Encoding) -> bytes:
    return forger.public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def for_another_overlay(forger: TokenForger) -> str:
    """By the issuer itself, for an overlay that it does not belong to."""
    return issued(forger, replace(forger.issuer, overlay_id="0" * 32))


def by_a_foreign_issuer(forger: TokenForger) -> str:
    world = SeededEntropy(2, "foreign")
    foreign = Ed25519PrivateKey.from_private_bytes(world.secret(32))
    return issued(forger, replace(forger.issuer, private=foreign, issuer_id="f" * 32))


def by_a_host(forger: TokenForger) -> str:
    """A member's identity key, under the issuer's name."""
    keys: HostKeys = member_of_beta(forger.victim).identity.keys
    return issued(forger, replace(forger.issuer, private=keys.identity))


def issued(forger: TokenForger, issuer: IssuerKey) -> str:
    return issue_token(
        issuer,
        tenant_id=forger.victim.tenant(BETA),
        name="forged",
        scopes=[Scope.INFER.value],
        token_id="ab" * 16,
        now_unix_s=forger.victim.now_unix_s,
        expires_unix_s=forger.victim.now_unix_s + 600,
    )


FORGED: dict[str, Callable[[TokenForger], str]] = {
    "alg none": lambda forger: forger.none("none"),
    "alg None": lambda forger: forger.none("None"),
    "alg missing": lambda forger: forger.unsigned({"kid": forger.issuer.issuer_id}, forger.claims),
    "HS256 with the public key": lambda f: f.by_public_key(f.public.public_bytes_raw()),
    "HS256 with the public key in PEM": lambda f: f.by_public_key(spki(f, Encoding.PEM)),
    "HS256 with the public key in DER": lambda f: f.by_public_key(spki(f, Encoding.DER)),
    "HS256 with the issuer's certificate": lambda f: f.by_public_key(f.issuer.der),
    "own key": lambda forger: forger.by_own_key(),
    "own key in the header": lambda forger: forger.by_own_key(jwk=jwk(forger)),
    "own key by address": lambda forger: forger.by_own_key(jku="http://127.0.0.1/keys"),
    "kid that is a path": lambda forger: forger.by_own_key(kid="../../dev/null"),
    "critical header": lambda forger: forger.by_own_key(crit=["exp"]),
    "another overlay as audience": for_another_overlay,
    "foreign issuer": by_a_foreign_issuer,
    "a host's key": by_a_host,
    "another tenant under the signature": lambda f: f.altered(tenant=f.victim.tenant(ALPHA)),
    "more scopes under the signature": lambda f: f.altered(scopes=["infer", "admin"]),
    "a later end under the signature": lambda f: f.altered(exp=1 << 40),
    "a version of the future": lambda f: f.altered(v=2),
    "cut off": lambda forger: forger.good[:-1],
    "without signature": lambda forger: forger.good.rpartition(".")[0] + ".",
    "signature twice": lambda forger: f"{forger.good}.{forger.good.rpartition('.')[2]}",
    "nothing": lambda _: "",
    "too long": lambda _: "a" * 3000,
}


async def is_401(face: Face, token: str) -> None:
    answer = await face.chat(token)
    assert answer.status == 401
    assert code_of(answer) == "invalid_api_key"
    assert token[:20].encode() not in answer.body or not token


async def test_tokens_that_no_issuer_has_made() -> None:
    """All of :data:`FORGED`, each beside the good one, which is answered."""
    async with faced_overlay() as face:
        forger = TokenForger(face)
        async with face.victim.unharmed():
            for make in FORGED.values():
                await is_401(face, make(forger))
                assert (await face.chat(forger.good)).status == 200


@simulated
async def test_a_forged_token_on_the_overlay_port() -> None:
    """The same tokens, each in a client's ask beside the good one."""
    async with honest_overlay() as victim:
        forger = TokenForger(Face(victim, 0))
        stranger = Stranger(victim)
        async with victim.unharmed(), stranger.connected(victim.honest[0]) as connection:
            for make in FORGED.values():
                refused = await ask(connection, make(forger))
                assert isinstance(refused, Refusal)
                assert (refused.status, refused.code) == (401, "invalid_api_key")
                assert not isinstance(await ask(connection, forger.good), Refusal)


async def ask(connection: Connection, credential: str) -> Reply:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    message = encode(
        Ask(v=1, credential=credential, chat=True, body=body, deadline_ms=9000, chunks=False)
    )
    async with connection.open(PROTOCOL, message) as stream:
        data = await stream.receive()
        assert data is not None
        return decode_reply(data)


async def test_tokens_out_of_their_time() -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        await is_401(face, face.token(ttl_s=60, ago_s=3600))
        await is_401(face, face.token(ago_s=-86_400))
        assert (await face.chat(face.token())).status == 200


async def test_a_revoked_token() -> None:
    """One that is remembered as good is refused from that moment on."""
    async with faced_overlay() as face:
        token = face.token()
        assert (await face.chat(token)).status == 200
        revoke(face.victim, jwt.decode(token, options={"verify_signature": False})["jti"])
        async with face.victim.unharmed():
            await is_401(face, token)


async def test_another_tenant_in_the_body() -> None:
    """The tenant is the token's, whatever the body says; most bodies that say so are refused."""
    async with faced_overlay() as face:
        victim = face.victim
        async with victim.unharmed():
            for field in ("tenant", "tenant_id", "user", "cache_salt", "namespace"):
                for name in (ALPHA, victim.tenant(ALPHA)):
                    answer = await face.chat(face.token(), **{field: name})
                    assert answer.status in {200, 400}
                    assert name.encode() not in answer.body


async def test_a_token_that_may_not_infer() -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        answer = await face.chat(face.token(scope=Scope.STATUS))
        assert (answer.status, code_of(answer)) == (403, "forbidden")


HEADERS = {
    "a bad one first": ["Authorization: Bearer {bad}", "Authorization: Bearer {good}"],
    "a bad one last": ["Authorization: Bearer {good}", "Authorization: Bearer {bad}"],
    "two in one": ["Authorization: Bearer {bad}, Bearer {good}"],
    "basic": ["Authorization: Basic {good}"],
    "no scheme": ["Authorization: {good}"],
    "cookie": ["Cookie: token={good}"],
    "another header": ["X-Api-Key: {good}"],
    "space in the name": ["Authorization : Bearer {good}"],
}


async def test_tokens_in_places_where_none_is_looked_for() -> None:
    """Also where a proxy before us may have looked at another one."""
    async with faced_overlay() as face:
        good, bad = face.token(), TokenForger(face).none("none")
        async with face.victim.unharmed():
            for headers in HEADERS.values():
                shown = [each.format(good=good, bad=bad) for each in headers]
                assert (await face.chat(None, *shown)).status in {400, 401}
            query = face.request(f"/v1/chat/completions?api_key={good}")
            assert (await face.raw(query)).status == 401


async def test_a_token_that_asks_without_end() -> None:
    """It has its rate and no more; the other tokens, of its own tenant too, are served on."""
    async with faced_overlay() as face, face.victim.unharmed():
        node = face.victim.nodes[0]
        limits = QuotaLimits(token=Quota(requests_per_min=12.0))
        node.quotas = Quotas(limits, node.ports.clock, serves=lambda _: True)
        greedy, modest = face.token(), face.token(name="another")
        answers = [await face.chat(greedy) for _ in range(8)]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) >= 4
        assert all(code_of(answer) == "rate_limit_exceeded" for answer in refused)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        # Another spelling of the same token is the same token.
        assert (await face.chat(f" {greedy} ")).status == 429
        assert (await face.chat(modest)).status == 200
