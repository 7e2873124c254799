"""The contract of ``overlay.ports.Entropy``, for the real one and the simulated one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.entropy import SeededEntropy
from overlay.ports import Entropy
from overlay.system import SystemEntropy

MAKERS = [
    pytest.param(SystemEntropy, id="SystemEntropy"),
    pytest.param(lambda: SeededEntropy(7, "a"), id="SeededEntropy"),
]
Make = Callable[[], Entropy]


@pytest.mark.parametrize("make", MAKERS)
def test_secrets_have_the_size_asked_for_and_differ(make: Make) -> None:
    entropy = make()
    assert [len(entropy.secret(size)) for size in (0, 1, 16, 32, 1000)] == [0, 1, 16, 32, 1000]
    assert len({entropy.secret(16) for _ in range(200)}) == 200


@pytest.mark.parametrize("make", MAKERS)
def test_rng_is_one_generator_that_goes_on(make: Make) -> None:
    entropy = make()
    assert entropy.rng is entropy.rng
    assert len({entropy.rng.getrandbits(64) for _ in range(200)}) == 200


@pytest.mark.parametrize("make", MAKERS)
def test_rng_says_nothing_about_secrets(make: Make) -> None:
    entropy = make()
    secrets = {entropy.secret(8) for _ in range(50)}
    assert not secrets & {entropy.rng.randbytes(8) for _ in range(50)}


def test_seeded_secrets_repeat_for_one_seed_and_subject_only() -> None:
    def drawn(seed: int, subject: str) -> bytes:
        return SeededEntropy(seed, subject).secret(32)

    assert drawn(1, "a") == drawn(1, "a")
    assert len({drawn(1, "a"), drawn(2, "a"), drawn(1, "b")}) == 3


def test_system_randomness_differs_between_instances() -> None:
    assert SystemEntropy().secret(32) != SystemEntropy().secret(32)
    assert SystemEntropy().rng.getrandbits(64) != SystemEntropy().rng.getrandbits(64)
