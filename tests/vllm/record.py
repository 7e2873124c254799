"""Records what real engines say, for the tests that read it.

    .venv-vllm/bin/python tests/vllm/record.py OUT_DIR MODEL_DIR [NAME ...]

``MODEL_DIR`` is a folder of safetensors. Names are files without ``.json``; without names all are
recorded, which takes about five minutes. tests/vllm/install.py makes the environment.
"""

from __future__ import annotations

import gzip
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exchanges
import frames
import publishers
from serving import ENVIRONMENT, OPTIONS, PUBLIC_MODEL, Server, running

GZIP_ABOVE_BYTES = 200_000
SERVED_NAME = "SmolLM2-135M-Instruct"
MACHINE_FOLDERS = ("/root", "/home", "/work", "/tmp")
DEV_MODE = {"VLLM_SERVER_DEV_MODE": "1"}
BYTE_HASHES = {"VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "0"}
CBOR = ("--prefix-caching-hash-algo", "sha256_cbor")


def record_http(model: Path) -> dict[str, Any]:
    with running(model) as server:
        told = _made_with(server) | {"exchanges": exchanges.record(server)}
    options = ("--served-model-name", SERVED_NAME, "--enable-scale-out")
    with running(model, options=options) as server:
        told["exchanges"] += exchanges.record_named(server, SERVED_NAME)
    return told


def record_events(model: Path) -> dict[str, Any]:
    with running(model, environment=DEV_MODE) as server:
        told = _with_replays(server, frames.record_all(server))
    return told | {"environment": ENVIRONMENT | DEV_MODE}


def record_bytes(model: Path) -> dict[str, Any]:
    environment = DEV_MODE | BYTE_HASHES
    with running(model, topic="", options=CBOR, environment=environment) as server:
        told = _with_replays(server, frames.record_few(server))
    told["settings"]["options"] += CBOR
    return told | {"environment": ENVIRONMENT | environment}


RECORDINGS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "vllm_ranks_events": lambda _: publishers.record_vllm(),
    "sglang_events": lambda _: publishers.record_sglang(),
    "vllm_http": record_http,
    "vllm_events": record_events,
    "vllm_events_bytes": record_bytes,
}


def _with_replays(server: Server, recording: frames.Recording) -> dict[str, Any]:
    count = len(recording.frames)
    starts = (0, count - 3, count, count + 5)
    return _made_with(server) | {
        "frames": recording.frames,
        "replay": [frames.replay(server.replay, start) for start in starts],
        "sent": recording.sent,
    }


def _made_with(server: Server) -> dict[str, Any]:
    import torch
    import transformers
    import vllm
    import zmq

    return {
        "made_with": {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "pyzmq": zmq.__version__,
            "python": platform.python_version(),
            "model": PUBLIC_MODEL,
        },
        "settings": {"topic": server.topic, "options": list(OPTIONS)},
        "ready_s": round(server.ready_s, 1),
    }


def _write(folder: Path, name: str, told: dict[str, Any]) -> None:
    """One line for each entry of a list, so that a recording can be read and compared."""
    text = _lines(told)
    leaked = [each for each in MACHINE_FOLDERS if each in text]
    if leaked:
        raise SystemExit(f"{name}: names {', '.join(leaked)} of this machine")
    raw = text.encode()
    for suffix in (".json", ".json.gz"):
        (folder / (name + suffix)).unlink(missing_ok=True)
    if len(raw) > GZIP_ABOVE_BYTES:
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(raw, mtime=0))
    else:
        (folder / f"{name}.json").write_bytes(raw)


def _lines(told: dict[str, Any]) -> str:
    entries = []
    for key, value in told.items():
        if isinstance(value, list) and value:
            rows = ",\n    ".join(_compact(each) for each in value)
            entries.append(f"  {json.dumps(key)}: [\n    {rows}\n  ]")
        else:
            entries.append(f"  {json.dumps(key)}: {_compact(value)}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def main() -> int:
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(RECORDINGS):
        known = " ".join(RECORDINGS)
        sys.stderr.write(f"usage: {sys.argv[0]} OUT_DIR MODEL_DIR [{known}]\n")
        return 2
    folder, model, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or RECORDINGS:
        sys.stdout.write(f"recording {name} ...\n")
        sys.stdout.flush()
        _write(Path(folder), name, RECORDINGS[name](Path(model).resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
