"""Chooses the next token: greedy, or sampled with noise that is a function of (seed, position).

Sampling adds Gumbel noise to the log probabilities and takes the largest (the Gumbel-max trick),
so that equal logits, seed and position give the same token on any engine, also after a resume, and
a small difference in logits changes the choice only at near-ties. The noise is always drawn on the
CPU, where torch's generator is the same everywhere.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import torch

from inference.request import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What the model's own generation config says; temperature 0 is greedy, top_k 0 is no limit."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


def choose(
    logits: torch.Tensor, sampling: Sampling, defaults: SamplingDefaults, *, position: int
) -> int:
    """The token that stands at ``position`` (prompt included) after these logits.

    Args:
        logits: ``[vocabulary]``, float32, on the CPU.
        sampling: What the request asks for; None means the model's default.
        defaults: The model's.
        position: The new token's place in the whole sequence.
    """
    temperature = defaults.temperature if sampling.temperature is None else sampling.temperature
    if temperature <= 0:
        return int(torch.argmax(logits))
    top_p = defaults.top_p if sampling.top_p is None else sampling.top_p
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    allowed = _allowed(probabilities, top_p=top_p, top_k=defaults.top_k)
    noise = _gumbel(logits.shape[0], seed=sampling.seed, position=position)
    scores = torch.where(allowed, probabilities.log() + noise, -torch.inf)
    return int(torch.argmax(scores))


def _allowed(probabilities: torch.Tensor, *, top_p: float, top_k: int) -> torch.Tensor:
    """The smallest set of most probable tokens that reaches ``top_p``, and at most ``top_k``."""
    if top_p >= 1 and top_k <= 0:
        return torch.ones_like(probabilities, dtype=torch.bool)
    ordered, tokens = torch.sort(probabilities, descending=True, stable=True)
    before = torch.cumsum(ordered, dim=0) - ordered
    kept = before < top_p
    if top_k > 0:
        kept[top_k:] = False
    kept[0] = True
    return torch.zeros_like(kept).scatter(0, tokens, kept)


def _gumbel(size: int, *, seed: int, position: int) -> torch.Tensor:
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))
