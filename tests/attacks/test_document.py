"""The table of the threat model names every attack that is tried, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "threat-model.md"
TITLE = "## Attacks that are tried"
NO_ATTACKS = {"test_document.py", "test_victim.py"}


def attacks() -> set[str]:
    """Every test of this folder, but for the controls beside them."""
    found = set()
    for path in HERE.glob("test_*.py"):
        if path.name not in NO_ATTACKS:
            tree = ast.parse(path.read_text())
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            found |= {node.name for node in tree.body if isinstance(node, functions)}
    return {name for name in found if name.startswith("test_") and "_control_" not in name}


def rows() -> list[list[str]]:
    """The cells of the table, without its head."""
    section = DOCUMENT.read_text().partition(TITLE)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_attack_has_a_row_and_every_row_its_tests() -> None:
    named = [name for row in rows() for name in re.findall(r"`(test_\w+)`", row[1])]
    assert len(named) == len(set(named))
    assert set(named) == attacks()


def test_every_row_says_what_refuses_it_and_what_remains() -> None:
    assert len(rows()) > 20
    for row in rows():
        assert len(row) == 4
        assert all(row)


def test_there_are_as_many_attacks_as_are_promised() -> None:
    assert len(attacks()) >= 40
