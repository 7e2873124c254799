"""``rhizome chaos explain``."""

from __future__ import annotations

from collections import Counter

import click
from rich.console import Console

from chaos.commands.options import (
    file_argument,
    json_option,
    mode_of,
    mode_option,
    print_json,
    seed_option,
)
from chaos.commands.tables import console_of, table_of
from chaos.commands.words import aimed, lasting, settings, when
from chaos.invariants.invariant import Id
from chaos.scenario import systematic
from chaos.scenario.data import plain
from chaos.scenario.load import find, load
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, Scenario
from chaos.scenario.schedule import PlannedFault, Schedule


@click.command("explain")
@file_argument
@seed_option
@mode_option
@click.option("--toml", is_flag=True, help="Print the plan as a scenario file without any draw.")
@json_option
def command(file: str, seed: int | None, mode: str | None, toml: bool, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show what a scenario will do, with everything drawn and every target resolved.

    FILE is a path, or the bare name of a scenario that is shipped.

    \b
    Example: rhizome chaos explain partition
    Example: rhizome chaos explain swarm --seed 17 --toml > seventeen.toml
    """  # noqa: D301 - click's mark
    scenario = load(find(file))
    schedule = plan(scenario, seed, mode=mode_of(mode))
    if as_json:
        print_json(plain(schedule))
    elif toml:
        from chaos.scenario.data import scenario_toml, timeline

        about = f"Plan of {scenario.name}, seed {schedule.seed}."
        click.echo(scenario_toml(timeline(schedule, about=about)), nl=False)
    else:
        _show(scenario, schedule, console_of())


def _show(scenario: Scenario, schedule: Schedule, console: Console) -> None:
    console.print(
        f"[bold]{schedule.name}[/]  {schedule.place}, seed {schedule.seed}"
        + (f", one of {systematic.count(scenario)}" if scenario.systematic else "")
    )
    if scenario.about:
        console.print(scenario.about, markup=False)
    console.print()
    facts = table_of("", "")
    facts.show_header = False
    for name, value in _facts(schedule):
        facts.add_row(name, value)
    console.print(facts)
    console.print()
    if not schedule.faults:
        console.print("no faults")
        return
    table = table_of("fault", "kind", "when", "for", "at", "settings", "may void")
    for fault in sorted(schedule.faults, key=_order):
        voids = ", ".join(dict.fromkeys(void.invariant.value for void in fault.fault.voids))
        supported = fault.fault.works_in(schedule.mode, schedule.cluster.network)
        table.add_row(
            fault.id,
            fault.fault.kind,
            when(fault),
            lasting(fault),
            aimed(fault, schedule.cluster.names),
            settings(fault.fault) if supported else f"unsupported in {schedule.place}",
            voids,
        )
    console.print(table)


def _order(fault: PlannedFault) -> tuple[bool, float]:
    """Those at landmarks last."""
    return (False, fault.at) if isinstance(fault.at, float | int) else (True, 0.0)


def _facts(schedule: Schedule) -> list[tuple[str, str]]:
    cluster, expect = schedule.cluster, schedule.expect
    phases = (
        f"{schedule.warm_up_s:g} s warm-up, {schedule.duration_s:g} s storm, heal "
        f"{'all' if not schedule.core else ' '.join(schedule.core)}, "
        f"{schedule.settle_s:g} s to settle"
    )
    left_out = [each.value for each in Id if each not in expect.invariants]
    checked = "every invariant" + (f" but {', '.join(left_out)}" if left_out else "")
    if len(left_out) > len(Id) // 2:
        checked = ", ".join(each.value for each in expect.invariants)
    limits = schedule.limits
    bounds = (
        f"success {limits.success_fraction_min:g}, TTFT ratio {limits.ttft_ratio_p99_max:g}, "
        f"converged in {limits.converge_s:g} s, ended in {limits.grace_s:g} s"
    )
    marks = [("must see", ", ".join(expect.marks))] if expect.marks else []
    return [
        ("phases", phases),
        ("cluster", _cluster(cluster)),
        ("requests", _requests(schedule)),
        ("checked", checked),
        ("bounds", bounds),
        *marks,
    ]


def _cluster(cluster: Cluster) -> str:
    text = (
        f"{cluster.nodes} nodes, tenants {' '.join(cluster.tenants)}, engine {cluster.engine}: "
        f"{cluster.slots} slots, {cluster.cache_blocks} blocks, "
        f"{cluster.prefill_tokens_per_s:g} tokens/s prefill, "
        f"{cluster.decode_ms_per_token:g} ms/token; links {cluster.delay_ms:g} ms; "
        f"policy {cluster.policy}"
    )
    for node, tenants in cluster.outside.items():
        text += f"; {node} not in {' '.join(tenants)}"
    for node, factor in cluster.slow.items():
        text += f"; {node} {factor:g} times slower"
    for node, late_s in cluster.late.items():
        text += f"; {node} from {late_s:g} s on"
    return text


def _requests(schedule: Schedule) -> str:
    requests = schedule.requests
    if not requests:
        return "none"
    entered = Counter(request.ingress for request in requests)
    spread = " ".join(f"{name}:{entered[name]}" for name in schedule.cluster.names)
    tokens = sum(request.document_tokens + request.question_tokens for request in requests)
    cancelled = sum(request.cancel_after_s is not None for request in requests)
    return (
        f"{len(requests)} ({len(requests) / schedule.duration_s:.2g}/s), entering at {spread}; "
        f"{len({request.document for request in requests})} documents, "
        f"{tokens / len(requests):.0f} prompt tokens on average"
        + (f"; {cancelled} cancelled by the client" if cancelled else "")
    )
