"""A vLLM server on this machine, and raw HTTP exchanges with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

PUBLIC_MODEL = "/models/SmolLM2-135M-Instruct"
PUBLIC_SCRATCH = "/run/vllm"
"""What stands in recordings for this machine's folders."""

BLOCK_TOKENS = 32
BLOCKS = 80
CONTEXT_TOKENS = 2048
TOPIC = "kv-events"

START_S = 300.0
ANSWER_S = 120.0
STOP_S = 20.0

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""One thread leaves the other core to whoever asks; nothing listens beyond this machine."""

OPTIONS = (
    *("--dtype", "float32", "--enforce-eager"),
    *("--max-model-len", str(CONTEXT_TOKENS)),
    *("--block-size", str(BLOCK_TOKENS), "--num-gpu-blocks-override", str(BLOCKS)),
    *("--enable-prompt-tokens-details", "--enable-auto-tool-choice"),
    *("--tool-call-parser", "hermes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is up. ``scratch`` has its log and the sockets of its events."""

    port: int
    model: Path
    scratch: Path
    topic: str
    ready_s: float
    group: int = 0

    def kill(self) -> None:
        """Ends all of its processes at once."""
        os.killpg(self.group, signal.SIGKILL)

    @property
    def events(self) -> str:
        return f"ipc://{self.scratch}/events"

    @property
    def replay(self) -> str:
        return f"ipc://{self.scratch}/replay"

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)

    def public(self, text: str) -> str:
        """The text without this machine's folders."""
        shown = text.replace(str(self.model), PUBLIC_MODEL)
        return shown.replace(str(self.scratch), PUBLIC_SCRATCH)

    def private(self, text: str) -> str:
        return text.replace(PUBLIC_MODEL, str(self.model))


@contextmanager
def running(
    model: Path,
    *,
    topic: str = TOPIC,
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    venv: Path = Path(sys.prefix),
) -> Iterator[Server]:
    """A server for as long as the block runs; its process group is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="vllm-") as folder:
        server = Server(
            port=_free_port(), model=model, scratch=Path(folder), topic=topic, ready_s=0.0
        )
        log = server.scratch / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [str(venv / "bin" / "vllm"), *_arguments(server), *options],
                env=os.environ | ENVIRONMENT | dict(environment or {}),
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            ready_s = _wait_until_ready(server, process, log)
            yield replace(server, ready_s=ready_s, group=process.pid)
        finally:
            _stop(process)


def exchange(
    server: Server,
    name: str,
    path: str,
    body: object = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One request and its answer, as they are recorded.

    A ``str`` is sent as it stands, anything else as JSON. Of a stream each event is one string.
    """
    method = method or ("GET" if body is None else "POST")
    request: dict[str, Any] = {"method": method, "path": path}
    sent = None
    if isinstance(body, str):
        request["text"] = sent = body
    elif body is not None:
        request["json"] = body
        sent = server.private(json.dumps(body))
    if headers:
        request["headers"] = dict(headers)
    connection = server.connect()
    given = {"content-type": "application/json"} if sent is not None else {}
    connection.request(method, path, sent, given | dict(headers or {}))
    answer = connection.getresponse()
    kind = answer.headers.get("content-type", "")
    told = {"name": name, "request": request, "status": answer.status, "content_type": kind}
    if kind.startswith("text/event-stream"):
        told["chunks"] = [server.public(each) for each in events(answer)]
    else:
        told["body"] = server.public(answer.read().decode())
    connection.close()
    return told


def events(answer: HTTPResponse) -> Iterator[str]:
    """The events of a stream as they come, each with the empty line that ends it."""
    lines: list[str] = []
    while line := answer.readline().decode():
        lines.append(line)
        if line in {"\n", "\r\n"}:
            yield "".join(lines)
            lines.clear()
    if lines:
        yield "".join(lines)


def _arguments(server: Server) -> list[str]:
    published = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": server.events,
        "replay_endpoint": server.replay,
        "topic": server.topic,
    }
    return [
        *("serve", str(server.model)),
        *("--host", "127.0.0.1", "--port", str(server.port)),
        *OPTIONS,
        *("--kv-events-config", json.dumps(published)),
    ]


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> float:
    began = time.monotonic()
    while time.monotonic() - began < START_S:
        if process.poll() is not None:
            raise SystemExit(f"vLLM ended at its start:\n{log.read_text()[-4000:]}")
        try:
            if exchange(server, "health", "/health")["status"] == 200:
                return time.monotonic() - began
        except (OSError, HTTPException):
            time.sleep(0.5)
    raise SystemExit(f"vLLM was not ready in {START_S:.0f} s:\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # The group is the server's own (start_new_session); its engine is a process in it.
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=STOP_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
