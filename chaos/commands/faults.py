"""``rhizome chaos faults``."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from chaos.commands.options import json_option, print_json
from chaos.commands.tables import console_of, table_of
from chaos.faults.catalogue import FAULTS, fault_named
from chaos.faults.fault import Fault, Mode, Network


@click.command("faults")
@click.argument("kind", required=False)
@json_option
def command(kind: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """List the faults that a scenario can name, or show one.

    \b
    Example: rhizome chaos faults
    Example: rhizome chaos faults one_way
    """  # noqa: D301 - click's mark
    chosen = FAULTS if kind is None else (fault_named(kind),)
    if as_json:
        print_json([fault_data(each) for each in chosen])
        return
    console = console_of()
    if kind is None:
        console.print(_table())
        console.print("\n`rhizome chaos faults KIND` shows its settings and what it may void.")
    else:
        _show(chosen[0], console)


def fault_data(fault: type[Fault]) -> dict[str, Any]:  # JSON values
    """One fault as ``--json`` prints it."""
    default = fault()
    return {
        "kind": fault.kind,
        "family": fault.family.value,
        "about": _about(fault),
        "target": fault.aim.value,
        "modes": [mode.value for mode in _modes(fault)],
        "networks": [network.value for network in _networks(fault)],
        "instant": fault.instant,
        "settings": [
            {
                "name": name,
                "unit": limits.unit,
                "low": limits.low,
                "high": limits.high,
                "default": getattr(default, name),
                "swarm_draws": list(limits.draw),
            }
            for name, limits in fault.ranges()
        ],
        "voids": [
            {
                "invariant": void.invariant.value,
                "where": void.where.value,
                "instead": void.instead,
            }
            for void in fault.voids
        ],
    }


def _about(fault: type[Fault]) -> str:
    return " ".join((fault.__doc__ or "").split())


def _modes(fault: type[Fault]) -> list[Mode]:
    return [mode for mode in Mode if mode in fault.modes]


def _networks(fault: type[Fault]) -> list[Network]:
    """Networks of live mode in which it can be done."""
    return [network for network in Network if fault.works_in(Mode.LIVE, network)]


def _modes_shown(fault: type[Fault]) -> str:
    """Its modes; live mode with the network where only one will do."""
    networks = _networks(fault)
    only = f" ({networks[0].value})" if len(networks) == 1 else ""
    return ", ".join(mode.value + (only if mode is Mode.LIVE else "") for mode in _modes(fault))


def _table() -> Table:
    table = table_of("family", "fault", "target", "modes", "settings", "may void")
    family = None
    for fault in FAULTS:
        first = "" if fault.family is family else fault.family.value
        family = fault.family
        table.add_row(
            first,
            fault.kind,
            fault.aim.value.split()[0],
            _modes_shown(fault),
            ", ".join(name for name, _ in fault.ranges()),
            ", ".join(void.invariant.value for void in fault.voids),
        )
    return table


def _show(fault: type[Fault], console: Console) -> None:
    data = fault_data(fault)
    console.print(f"{fault.kind} ({data['family']}): {data['about']}", highlight=False)
    console.print(f"modes {_modes_shown(fault)}; target: {data['target']}", highlight=False)
    if data["settings"]:
        table = table_of("setting", "unit", "from", "to", "default", numbers=(2, 3, 4))
        for each in data["settings"]:
            numbers = (f"{each[name]:g}" for name in ("low", "high", "default"))
            table.add_row(each["name"], each["unit"], *numbers)
        console.print(table)
    for void in data["voids"]:
        console.print(
            f"may void {void['invariant']} at {void['where']}; "
            f"then the mark {void['instead']} must be seen",
            highlight=False,
        )
    aimed = {"links": 'links = ["n1>n2"]', "groups": 'groups = [["n1"], ["n2", "n3"]]'}
    lines = ["[[fault]]", f'kind = "{fault.kind}"', "at_s = 10"]
    lines += [] if fault.instant else ["for_s = 20"]
    lines += [aimed.get(data["target"], 'target = "n2"')]
    lines += [f"{each['name']} = {each['default']:g}" for each in data["settings"]]
    console.print("\nIn a scenario:\n")
    console.print("\n".join(f"    {each}" for each in lines), markup=False, highlight=False)
