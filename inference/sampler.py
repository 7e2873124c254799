"""Chooses the next token: greedy, or sampled with noise that is a function of (seed, position).

Sampling adds Gumbel noise to the log probabilities and takes the largest (the Gumbel-max trick),
so that equal logits, seed and position give the same token on any engine, in any batch and after a
resume, and a small difference in logits changes the choice only at near-ties. The noise is always
drawn on the CPU, where torch's generator is the same everywhere.

Tokens are left out in the field's usual order: the ``top_k`` most probable stay; of these the
smallest set that reaches ``top_p`` of what they have together; of these those with at least
``min_p`` times the probability of the most probable one.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import torch

from inference.request import Sampling

FIRST_LOOK = 64
"""Candidates that are sorted at first; a whole vocabulary is only where these do not reach top_p.
Sorting 49,152 takes 4 ms, finding the 64 largest 0.1 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What the model's own generation config says.

    ``temperature`` 0 is greedy, ``top_k`` 0 and ``min_p`` 0 are no limit.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


TEMPERATURE_MIN = 1e-5
"""Below it an answer is greedy in all but name, and logits divided by it may be no numbers."""


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
    if temperature < TEMPERATURE_MIN:
        return int(torch.argmax(logits))
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    tokens = _allowed(
        probabilities,
        top_p=defaults.top_p if sampling.top_p is None else sampling.top_p,
        top_k=defaults.top_k if sampling.top_k is None else sampling.top_k,
        min_p=defaults.min_p if sampling.min_p is None else sampling.min_p,
    )
    noise = _uniform(logits.shape[0], seed=sampling.seed, position=position)
    if tokens is None:
        return int(torch.argmax(probabilities.log() + _gumbel(noise)))
    scores = probabilities[tokens].log() + _gumbel(noise[tokens])
    return int(tokens[torch.argmax(scores)])


def _allowed(
    probabilities: torch.Tensor, *, top_p: float, top_k: int, min_p: float
) -> torch.Tensor | None:
    """The tokens that may be chosen, most probable first, at least one; None where all may."""
    if top_p >= 1 and top_k <= 0 and min_p <= 0:
        return None
    size = probabilities.shape[0]
    limit = min(top_k, size) if top_k > 0 else size
    look = limit if top_k > 0 else FIRST_LOOK
    while True:
        tokens, kept = _most_probable(probabilities, min(look, size))
        kept, tokens = kept[:limit], tokens[:limit]
        whole = float(kept.sum()) if top_k > 0 else 1.0
        if _reaches(kept, top_p * whole, min_p) or len(kept) >= limit:
            break
        look *= 8
    before = torch.cumsum(kept, dim=0) - kept
    allowed = kept >= min_p * kept[0]
    if top_p < 1:
        allowed &= before < top_p * whole
    allowed[0] = True
    return tokens[allowed]


def _reaches(kept: torch.Tensor, mass: float, min_p: float) -> bool:
    """Whether no token beyond these could be allowed."""
    return float(kept.sum()) >= mass or float(kept[-1]) < min_p * float(kept[0])


def _most_probable(probabilities: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At least so many tokens in order, ties by number, with all that tie with the last."""
    least = torch.topk(probabilities, count, sorted=False).values.min()
    tokens = torch.nonzero(probabilities >= least).flatten()
    ordered, places = torch.sort(probabilities[tokens], descending=True, stable=True)
    return tokens[places], ordered


def _uniform(size: int, *, seed: int, position: int) -> torch.Tensor:
    """Uniform numbers, one a token, from which the noise is made."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(size, generator=generator, dtype=torch.float64)


def _gumbel(uniform: torch.Tensor) -> torch.Tensor:
    """Gumbel noise from uniform numbers."""
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))
