"""Models for the tests: a tiny random one made in a moment, and the real one loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.inference import bench
from tests.inference.bench import Bench, opened


@pytest.fixture(name="save_tokenizer")
def fixture_save_tokenizer() -> Callable[[Path], None]:
    return bench.save_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    bench.save_tiny_llama(folder)
    return folder


@pytest.fixture
def tiny_with(tiny_folder: Path) -> Iterator[Callable[..., Bench]]:
    """Opens tiny engines with other settings."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Bench:
            given = {"model": str(tiny_folder), "kv_cache_bytes": 4 << 20} | settings
            return stack.enter_context(opened(**given))

        yield make


@pytest.fixture
def tiny(tiny_with: Callable[..., Bench]) -> Bench:
    return tiny_with()


@pytest.fixture(scope="module")
def real() -> Iterator[Bench]:
    with opened(kv_cache_bytes=1 << 28) as made:
        yield made
