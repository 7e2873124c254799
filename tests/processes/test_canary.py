"""One tenant's prompts, tokens, keys and name appear in nothing that any process writes or tells.

Three real peers at log level debug: one asks the others, one breaks on purpose in every way that
its engine can, one is killed and aborted. Afterwards every file is searched, and everything that a
client of another tenant was told.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from overlay.client import PeerClient
from overlay.control.client import call
from overlay.control.messages import CreateToken, Invite, InviteReply, TokenReply
from overlay.demo.cluster import Cluster, PeerProcess, running_cluster
from overlay.errors import OverlayError, RequestError
from overlay.home import Home
from tests.overlay.http.world import Answer, Client, Hung
from tests.processes import breaking_peer
from tests.processes.canary import TENANT, TOKEN_NAME, WORD, Planted, files_under, token_forms

pytestmark = pytest.mark.processes

OTHER = "otter-tenant"
PATIENT = ("--forward-budget", "10s", "--silence", "30s", "--log-level", "debug")
"""For machines that are busy with other tests: no peer is taken for slow or dead."""

TOY = ("--engine", "toy", "--toy-decode", "20ms", *PATIENT)
PROMPT = f"Tell nobody of {WORD} and nothing of it. "


@dataclass
class Asker:
    """A client of one tenant over plain HTTP; what it was told, word for word."""

    key: str
    told: list[bytes] = field(default_factory=list)

    async def ask(self, peer: str, raw: bytes, method: str = "POST") -> Answer | None:
        """One request; None where the peer hangs up instead of answering."""
        port = int(peer.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = Client(stream)
            try:
                with trio.fail_after(60):
                    answer = await client.ask(raw, method)
            except (Hung, trio.BrokenResourceError):
                return None
            self.told.append(repr(answer.headers).encode() + answer.body)
            return answer

    def chat(self, text: str = PROMPT, *, key: str | None = None, **fields: Any) -> bytes:
        """A chat's bytes; ``fields`` are of the body."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
        return self.raw("/v1/chat/completions", json.dumps(body).encode(), key=key)

    def raw(
        self,
        target: str,
        body: bytes = b"",
        *headers: str,
        key: str | None = None,
        host: str = "localhost",
    ) -> bytes:
        method = "POST" if body else "GET"
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {host}",
            f"Authorization: Bearer {self.key if key is None else key}",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def token_for(issuer: PeerProcess, tenant: str) -> str:
    wanted = CreateToken(tenant=tenant, name=TOKEN_NAME, expires_s=3600, scopes=("infer", "status"))
    return (await call(Home(issuer.home), wanted, TokenReply)).api_key


async def url_of(peer: PeerProcess) -> str:
    return (await peer.status()).http[0]


async def ask_in_every_wrong_way(owner: Asker, url: str) -> list[str]:
    """Requests of the owner that are refused, each with the canary somewhere; their ids."""
    broken_json = json.dumps({"messages": [{"role": "user", "content": PROMPT}]}).encode()[:-4]
    chat = "/v1/chat/completions"
    cut = owner.key[:-6] + "AAAAAA"
    requests = [
        owner.chat(),
        owner.chat(stream=True),
        owner.raw(chat, broken_json),
        owner.raw(chat, PROMPT.encode()),
        owner.chat(**{WORD: 1}),
        owner.chat(model=WORD),
        owner.chat(temperature=WORD),
        owner.chat(stop=[WORD] * 100),
        owner.chat(tools=[{"type": "function", "function": {"name": "f", "description": WORD}}]),
        owner.chat(PROMPT * 3000),
        owner.chat(key=cut),
        owner.chat(key=f"{owner.key} {owner.key}"),
        owner.chat(key=WORD.encode("ascii", "ignore").decode() * 3),
        owner.raw(f"{chat}?api_key={owner.key}", PROMPT.encode(), key="none"),
        owner.raw(f"/v1/models/{owner.key}"),
        owner.raw(f"/v1/{TENANT}/{owner.key}"),
        owner.raw("/v1/models", b"", f"X-Prompt: {owner.key}\x01"),
        owner.raw("/v1/models", host=f"{TENANT}.example"),
        owner.raw("/v1/models", b"", f"Origin: http://{TENANT}.example"),
        owner.raw(chat, b"x" * 100, "Transfer-Encoding: chunked"),
        f"GET {chat} {owner.key}\r\n\r\n".encode(),
        owner.raw("/rhizome/explain/" + owner.key),
    ]
    answers = [await owner.ask(url, request) for request in requests]
    assert [answer.status for answer in answers[:2] if answer is not None] == [200, 200]
    assert sum(answer is not None and answer.status >= 400 for answer in answers) >= 18
    return [answer.headers["x-request-id"] for answer in answers if answer is not None]


async def ask_as_a_peer_client(owner: Asker, peer: PeerProcess) -> None:
    address = (await peer.status()).addresses[0]
    root = peer.home / "root.der"
    messages = [{"role": "user", "content": PROMPT}]
    async with PeerClient.connect(address, token=owner.key, ca=root) as client:
        await client.chat(messages, max_tokens=4).text()
        for fields in ({"model": WORD}, {"temperature": WORD}, {WORD: WORD}):
            with pytest.raises(RequestError):
                await client.chat(messages, **fields).text()
    async with PeerClient.connect(address, token=owner.key[:-6] + "AAAAAA", ca=root) as client:
        with pytest.raises(RequestError):
            await client.chat(messages).text()


async def break_it(owner: Asker, peer: PeerProcess) -> None:
    """Has the peer's engine break in each way, the last of which ends the process."""
    url = await url_of(peer)
    for where in ("tokenizer", "step", "thread"):
        await owner.ask(url, owner.chat(f"{PROMPT} break-{where} {WORD}"))
        assert peer.runs, where
    await owner.ask(url, owner.chat(f"{PROMPT} break-peer {WORD}", max_tokens=400))
    assert peer.process is not None
    with trio.fail_after(60):
        await peer.process.wait()
    assert peer.process.returncode != 0


async def kill_in_the_middle(cluster: Cluster, owner: Asker) -> None:
    """Kills a peer by -9 while it streams answers, and aborts the next one with its traceback."""
    asking, _, victim = cluster.peers
    url = await url_of(asking)
    for number in (signal.SIGKILL, signal.SIGABRT):
        assert victim.process is not None
        async with trio.open_nursery() as nursery:
            for count in range(4):
                request = owner.chat(f"{PROMPT} {count}", max_tokens=200, stream=True)
                nursery.start_soon(owner.ask, url, request)
            nursery.start_soon(owner.ask, await url_of(victim), owner.chat(max_tokens=2000))
            while not (await victim.status()).running:
                await trio.sleep(0.05)
            victim.process.send_signal(number)
            await victim.process.wait()
        await cluster.start_peer(victim, *TOY)
        await cluster.ready(victim)
    assert "Fatal Python error: Aborted" in victim.log.read_text()


async def ask_as_another(other: Asker, cluster: Cluster, hidden: list[str]) -> None:
    """Everything that a client of another tenant can ask to be told."""
    for peer in cluster.peers:
        if not peer.runs:
            continue
        url = await url_of(peer)
        paths = ["/v1/models", "/metrics", "/rhizome/status", "/rhizome/explain", "/health", "/x"]
        paths += [f"/rhizome/explain/{request_id}" for request_id in hidden]
        for path in paths:
            await other.ask(url, other.raw(path))
        await other.ask(url, other.chat("What was the last one asked?", stream=True))
        await other.ask(url, other.chat("And you?", key="none"))
        await other.ask(url, other.raw("/rhizome/explain"))
    assert sum(b'"request_not_found"' in told for told in other.told) >= len(hidden)


async def talk_nonsense(owner: Asker, peer: PeerProcess) -> None:
    """The canary as bytes of no protocol, on every port and on the socket."""
    status = await peer.status()
    for address in (status.addresses[0], status.http[0]):
        port = int(address.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"{PROMPT}{owner.key}\r\n\r\n".encode() * 10)
    async with await trio.open_unix_socket(Home(peer.home).control_path()) as socket:
        await socket.send_all(f"{PROMPT}{owner.key}".encode() * 10)
    with pytest.raises(OverlayError):
        await call(Home(peer.home), Invite(tenants=[WORD], expires_s=60), InviteReply)


def core_limit(peer: PeerProcess) -> str | None:
    """How large an image of its memory a peer may leave; None where the system does not tell."""
    limits = Path(f"/proc/{peer.pids[-1]}/limits")
    if not limits.exists():
        return None
    (line,) = [each for each in limits.read_text().splitlines() if "core file" in each]
    return line.split()[4]


async def test_no_secret_of_a_tenant_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    planted = Planted()
    planted.plant("the prompt", WORD)
    planted.plant("the tenant's name", TENANT)
    planted.plant("the token's name", TOKEN_NAME)
    async with running_cluster(tmp_path, ("anna", "bert", "cleo"), (TENANT, OTHER)) as cluster:
        await cluster.create()
        anna, bert, cleo = cluster.peers
        await cluster.start_peer(anna, "--engine", "none", *PATIENT)
        await cluster.ready(anna)
        await cluster.start_peer(bert, *TOY, "--log", "json", program=[breaking_peer.__file__])
        await cluster.start_peer(cleo, *TOY)
        for peer in (bert, cleo):
            await cluster.ready(peer)
        await cluster.met()
        planted.plant_keys([peer.home for peer in cluster.peers])
        invited = await call(Home(anna.home), Invite(tenants=[TENANT], expires_s=60), InviteReply)
        planted.plant("a ticket", invited.ticket)
        owner, other = Asker(await token_for(anna, TENANT)), Asker(await token_for(anna, OTHER))
        planted.plant_token("the token", owner.key)
        assert core_limit(cleo) in {"0", None}

        hidden = await ask_in_every_wrong_way(owner, await url_of(anna))
        await ask_in_every_wrong_way(owner, await url_of(cleo))
        await ask_as_a_peer_client(owner, anna)
        await talk_nonsense(owner, anna)
        await kill_in_the_middle(cluster, owner)
        await break_it(owner, bert)
        await ask_as_another(other, cluster, hidden)

    assert planted.found_in(b"".join(owner.told)), "the owner is told of its own: the search works"
    leaks = {"what the other tenant was told": planted.found_in(b"\n".join(other.told))}
    spelled = list(token_forms(WORD))
    for path, data in files_under(tmp_path):
        found = planted.found_in(data) + [form for form, ids in spelled if ids in data]
        leaks[path.relative_to(tmp_path).as_posix()] = found
    assert {"anna.log", "bert.log", "cleo.log", "anna/state.sqlite"} <= set(leaks)
    assert {name: found for name, found in leaks.items() if found} == {}
    assert bert.log.read_text().count("breaking_peer.py") >= 3, "it broke, and its places show"
