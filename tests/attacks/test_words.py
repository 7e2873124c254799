"""Words of other hosts that reach a person: nothing in them is obeyed by a terminal."""

from __future__ import annotations

import pytest

from chaos.world import until
from overlay.commands.status import show
from overlay.control.handler import status_of
from overlay.served import Advertised, read_line
from tests.attacks.adversary import KeyHolder, host_of, member_of_beta, repair
from tests.attacks.victim import Victim
from tests.attacks.worlds import honest_overlay, simulated

REST = "8192\t0123456789abcdef\t0123456789abcdef"
LINES = (
    f"\x1b]0;owned\x07\t{REST}\tfloat32",
    f"\x1b[2J\x1b[1;1H\t{REST}\tfloat32",
    f"name\t{REST}\t\x9b31m",
    f"right\u202eleft\t{REST}\tfloat32",
    f"line\u2028feed\t{REST}\tfloat32",
    f"{'9' * 20}\t{'9' * 60}\t0123456789abcdef\t0123456789abcdef\tfloat32",
    f"[/b][link=http://evil.example]\t{REST}\t[/]",
)


async def told(victim: Victim, own: KeyHolder, lines: tuple[str, ...]) -> tuple[Advertised, ...]:
    """What an honest host knows of the models of a member that tells these lines."""
    node = victim.nodes[0]
    async with own.gossiping(victim.honest[0]) as say:
        await say(repair(records=[own.record(models=lines)], heads=[own.head()]))
        await until(lambda: own.peer_id in node.knowledge.gossip.origins.known)
        models = node.knowledge.models(own.peer_id)
        show(status_of(node, ()))
        await victim.ask_everybody()
    return models


@simulated
async def test_control_a_member_whose_models_have_names() -> None:
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        (model,) = await told(victim, own, (f"größer/modell-2 (neu)\t{REST}\tfloat32",))
        assert model.name == "größer/modell-2 (neu)"


@pytest.mark.parametrize("of_a_tenant", [False, True])
@simulated
async def test_a_host_that_tells_of_one_more_model(of_a_tenant: bool) -> None:
    """Requests that name none go on: they mean the honest host's own, whatever others serve."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim) if of_a_tenant else host_of(victim)
        async with victim.unharmed(by=own.peer_id):
            (model,) = await told(victim, own, (f"another\t{REST}\tfloat32",))
            assert model.name == "another"


def test_escapes_and_markup_in_what_a_member_says_of_its_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are of another form, or shown as they stand; ``rhizome status`` goes on."""

    @simulated
    async def attack() -> None:
        async with honest_overlay() as victim:
            own = member_of_beta(victim)
            async with victim.unharmed(by=own.peer_id):
                models = await told(victim, own, LINES)
                assert models == tuple(filter(None, map(read_line, LINES[-1:])))

    attack()
    shown = capsys.readouterr().out
    assert "peer " in shown
    assert all(each.isprintable() for each in shown.splitlines())
