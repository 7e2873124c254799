"""Exchanges with a real vLLM, recorded by ``tests/vllm``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"


def exchanges() -> dict[str, dict[str, Any]]:
    """All exchanges by name: request, status, ``body`` or ``chunks`` as they were."""
    packed = RECORDED / "vllm_http.json.gz"
    with gzip.open(packed) as opened:
        return {each["name"]: each for each in json.load(opened)["exchanges"]}


def payloads(exchange: dict[str, Any]) -> list[bytes]:
    """What a stream's events say."""
    raw = "".join(exchange["chunks"]).encode()
    return [part.removeprefix(b"data: ") for part in raw.split(b"\n\n") if part]
