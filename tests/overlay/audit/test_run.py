"""What an audit writes and what it judges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from overlay.audit.run import SideChannels, asked, run_beside
from overlay.audit.statistics import Separation
from overlay.choices import Isolation
from overlay.errors import PeerGone
from overlay.request import Delta, Finished, Started, Usage
from tests.overlay.peers_world import simulate

SOUND = Separation(auc=0.5, low=0.46, high=0.54, samples=400)
TOLD = Separation(auc=0.97, low=0.95, high=0.98, samples=400)

HELD = SideChannels(
    seed=1,
    within=TOLD,
    across=SOUND,
    eviction=SOUND,
    load_shared=TOLD,
    load_strict=SOUND,
    eviction_shared=TOLD,
)


def test_the_json_has_each_attack_with_its_interval() -> None:
    told = {"auc": 0.97, "ci95": [0.95, 0.98], "samples": 400}
    sound = {"auc": 0.5, "ci95": [0.46, 0.54], "samples": 400}
    assert HELD.public() == {
        "within_tenant": told,
        "across_tenants": sound,
        "eviction": sound,
        "load": {"shared": told, "strict": sound},
    }


def test_only_an_attack_that_works_where_it_should_and_nowhere_else_is_a_pass() -> None:
    assert HELD.failures() == []
    assert "must work" in " ".join(replace(HELD, within=SOUND).failures())


@pytest.mark.parametrize("name", ["across", "eviction", "load_strict"])
@pytest.mark.parametrize(("low", "high"), [(0.39, 0.5), (0.5, 0.61), (0.9, 1.0)])
def test_an_interval_that_leaves_the_range_is_a_failure(name: str, low: float, high: float) -> None:
    leak = Separation(auc=(low + high) / 2, low=low, high=high, samples=400)
    assert len(replace(HELD, **{name: leak}).failures()) == 1


WORDS = (
    *("load shared", "load strict", "eviction shared", "eviction strict"),
    *("own tenant", "other tenant"),
)


def auc_of(what: str) -> float:
    return (WORDS.index(what) + 1) / 10


class Host:
    """Attacked without a peer: each attack has an AUC of its own."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name = name
        self.done = done

    async def _found(self, what: str) -> Separation:
        await trio.sleep(1)
        self.done.append(f"{self.name} {what}")
        return replace(SOUND, auc=auc_of(what))

    async def load(self, isolation: Isolation) -> Separation:
        return await self._found(f"load {isolation.value}")

    async def eviction(self, isolation: Isolation) -> tuple[Separation, tuple[int, int]]:
        return await self._found(f"eviction {isolation.value}"), (
            list(Isolation).index(isolation),
            0,
        )

    async def guesses(self) -> tuple[Separation, Separation]:
        return await self._found("own tenant"), await self._found("other tenant")


def test_two_hosts_share_the_attacks_and_run_beside_each_other() -> None:
    done: list[str] = []

    async def main() -> None:
        began_s = trio.current_time()
        hosts = [Host(name, done) for name in "ab"]
        found = await run_beside(*hosts, seed=7)  # type: ignore[arg-type]
        assert trio.current_time() - began_s == pytest.approx(3)
        told = (found.load_shared, found.load_strict, found.eviction_shared, found.eviction)
        assert [each.auc for each in (*told, found.within, found.across)] == [*map(auc_of, WORDS)]
        assert found.cached == {each.value: (at, 0) for at, each in enumerate(Isolation)}
        assert found.seed == 7

    simulate(1, main)
    assert sorted(done) == [
        *("a load strict", "a other tenant", "a own tenant"),
        *("b eviction shared", "b eviction strict", "b load shared"),
    ]


class Client:
    """Answers with given events, a second apart."""

    def __init__(self, *events: object) -> None:
        self.events = events
        self.fields: dict[str, object] = {}

    async def complete(self, _prompt: str, **fields: object) -> object:
        self.fields = fields
        for event in self.events:
            await trio.sleep(1)
            yield event


END = Finished(
    reason=None,  # type: ignore[arg-type]  # nobody looks at it
    usage=Usage(prompt_tokens=60, completion_tokens=1, cached_tokens=48),
    served_by="",  # type: ignore[arg-type]
    hops=0,
    resumes=0,
)


@pytest.mark.parametrize(
    ("events", "ttft_s"),
    [
        ((Started(model="m", served_by=""), Delta(text="a", token_ids=(1,), chunk=None), END), 2.0),  # type: ignore[arg-type]
        ((Started(model="m", served_by=""), END), 2.0),  # type: ignore[arg-type]
    ],
    ids=["a piece of text", "an end without text"],
)
def test_the_first_token_is_what_comes_first_of_the_answer(
    events: tuple[object, ...], ttft_s: float
) -> None:
    client = Client(*events)

    async def main() -> None:
        probe = await asked({"t": client}, "t", "a prompt")  # type: ignore[dict-item]
        assert probe.ttft_s == pytest.approx(ttft_s)
        assert probe.cached_tokens == 48
        assert client.fields == {"max_tokens": 1, "temperature": 0}

    simulate(1, main)


def test_an_answer_without_an_end_is_no_sample() -> None:
    async def main() -> None:
        with pytest.raises(PeerGone):
            await asked({"t": Client()}, "t", "a prompt")  # type: ignore[dict-item]

    simulate(1, main)
