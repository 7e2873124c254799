"""A served model as a peer's record tells it: one short line of text, the same for everybody.

Name, context in tokens, digest of the prefix identity, digest of weights and quantisation, and
dtype, separated by tabs; then, where there are any, letters for what is unlike the own engines
(:data:`PASSES_BODIES`, :data:`ESTIMATED`). Peers of a version that does not know the letters skip
such a line, as they would not know what its engine sends. Peers compare digests; only the engine's
own host knows what is behind them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from inference.request import ServedModel

LINE_CHARS_MAX = 128
DIGEST_HEX = 16
CONTEXT_DIGITS_MAX = 9

PASSES_BODIES = "b"
"""The engine is given whole bodies, and its own chunks come back."""

ESTIMATED = "e"
"""What the engine has cached is inferred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """A model that some peer serves.

    With equal ``prefix`` block hashes can be compared; with equal ``weights`` answers can, up to
    the dtype.
    """

    name: str
    context_tokens: int
    prefix: str
    weights: str
    dtype: str
    traits: str = ""

    @property
    def passes_bodies(self) -> bool:
        return PASSES_BODIES in self.traits

    @property
    def estimated(self) -> bool:
        return ESTIMATED in self.traits

    @property
    def variant(self) -> str:
        """Equal where one peer can go on with the answer that another began."""
        return f"{self.prefix} {self.weights}"


@lru_cache(maxsize=64)
def advertised(model: ServedModel) -> Advertised:
    """How a model is told to others."""
    prefix, output = model.prefix, model.output
    return Advertised(
        name=model.name,
        context_tokens=model.context_tokens,
        prefix=_digest(prefix.served_model, prefix.tokenizer, prefix.template),
        weights=_digest(output.weights, output.quantisation),
        dtype=output.dtype,
        traits=PASSES_BODIES * model.passes_bodies + ESTIMATED * model.estimated,
    )


def weights_of(variant: str) -> str:
    """The weights in an :attr:`Advertised.variant`, for people."""
    return variant.rpartition(" ")[2]


def line_of(model: ServedModel) -> str:
    """The line of a record; a name that is too long for it is cut, and then never matches."""
    told = advertised(model)
    rest = f"\t{told.context_tokens}\t{told.prefix}\t{told.weights}\t{told.dtype}"
    if told.traits:
        rest += f"\t{told.traits}"
    return told.name[: LINE_CHARS_MAX - len(rest)] + rest


def read_line(line: str) -> Advertised | None:
    """What a peer's line says; None where it is of another form, which is no reason to fail.

    It is shown on terminals, so that one with other than printable characters is of another form.
    """
    parts = line.split("\t")
    if len(parts) not in {5, 6} or not all(map(str.isprintable, parts)):
        return None
    name, context, prefix, weights, dtype, *traits = parts
    if not context.isascii() or not context.isdigit() or len(context) > CONTEXT_DIGITS_MAX:
        return None
    return Advertised(
        name=name,
        context_tokens=int(context),
        prefix=prefix,
        weights=weights,
        dtype=dtype,
        traits="".join(traits),
    )


def _digest(*parts: str) -> str:
    joined = "\0".join(parts).encode()
    return hashlib.blake2b(joined, digest_size=DIGEST_HEX // 2).hexdigest()
