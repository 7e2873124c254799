"""What routing is worth: every policy on real and drawn traffic, in virtual time.

    python -m benchmarks.routing [--quick] [--data DIR] [--jobs N] [--workload NAME] [--json PATH]

Real parts: ``overlay.routing`` (decide, bookings, measurements, memory), the engine's prefix cache,
the published digest, tags and the index. Virtual: time, links (they delay and lose nothing) and the
engine's arithmetic, which takes the toy engine's time with one slot, as ``data/README.md`` has it.
Sealing, signing and repair of gossip are left out; they have their own benchmarks and tests.

Exit codes: 0 when ``cost`` is nowhere more than 5 % worse in mean completion time than the best of
the others, 1 where it is (each such cell is printed), 2 when a trace is missing, 3 when the study
itself fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks.routing_study.grid import COST, WORSE_MAX, Row, groups, run_group
from benchmarks.routing_study.simulation import BUSY, NEVER, Cell
from benchmarks.routing_study.workloads import SOURCES, MissingTrace, require

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Runs the study and prints it."""
    options = read_options()
    sources = [each for each in SOURCES if not options.workload or each.name in options.workload]
    try:
        for source in sources:
            require(source, options.data)
    except MissingTrace as error:
        print(error, file=sys.stderr)
        return 2
    began_s = time.monotonic()
    work = groups(options.data, quick=options.quick, workloads=options.workload)
    with ProcessPoolExecutor(options.jobs) as processes:
        rows = [row for group in processes.map(run_group, work) for row in group]
    order = [source.name for source in SOURCES]
    rows.sort(key=lambda row: (order.index(row.workload), row.cell.peers, row.cell.delay_s))
    print_rows(rows)
    print_summary(rows)
    print(f"{time.monotonic() - began_s:.0f} s with {options.jobs} processes")
    if options.json:
        options.json.write_text(json.dumps([as_json(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.holds for row in rows) else 1


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="every cell with fewer requests")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the traces"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--workload", action="append", default=[], choices=[source.name for source in SOURCES]
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args()


def print_rows(rows: list[Row]) -> None:
    """One block for each cell, one line for each policy."""
    shown = ("hit", "ttft p50", "p99", "mean", "p50", "p99", "req/s")
    for row in rows:
        mark = "" if row.holds else "   <-- more than 5 % worse"
        print(f"\n{title(row)}: cost / best other = {row.ratio:.3f} ({row.best_other}){mark}")
        print(f"  {'':15}" + "".join(f"{name:>9}" for name in shown))
        for name, each in row.results.items():
            seconds = [each.ttft_p50_s, each.ttft_p99_s, each.completion_mean_s]
            seconds += [each.completion_p50_s, each.completion_p99_s]
            figures = "".join(f"{value:9.3f}" for value in seconds)
            print(f"  {name:15}{each.hit:9.3f}{figures}{each.requests_per_s:9.2f}")


def print_summary(rows: list[Row]) -> None:
    """The rule, the value of gossip, and every cell that breaks the rule."""
    broken = [row for row in rows if not row.holds]
    print(f"\narrivals keep `random` {BUSY:.0%} busy; columns: seconds, mean/p50/p99 of completion")
    print("value of gossip: mean completion of `cost` without digests over that with them")
    blind = {key(row): row.results[COST] for row in rows if row.cell.digest_age_s == NEVER}
    for row in rows:
        if row.cell.digest_age_s < NEVER:
            without = blind[key(row)]
            told = row.results[COST]
            gain = without.completion_mean_s / told.completion_mean_s
            print(f"  {title(row)}: {gain:.2f} x, hit {without.hit:.3f} -> {told.hit:.3f}")
    limit = f"more than {WORSE_MAX - 1:.0%} worse than the best other"
    print(f"\n`cost` is {limit} in {len(broken)} of {len(rows)} cells")
    for row in broken:
        print(f"  {title(row)}: {row.ratio:.3f} x {row.best_other}")


def key(row: Row) -> tuple[str, int, float]:
    """The cell but for its digest age."""
    return row.workload, row.cell.peers, row.cell.delay_s


def title(row: Row) -> str:
    """A cell's name."""
    return f"{row.workload} N={row.cell.peers} delay={row.cell.delay_s * 1000:g} ms {age(row.cell)}"


def age(cell: Cell) -> str:
    """A digest age in words."""
    return "no digests" if cell.digest_age_s == NEVER else f"digests every {cell.digest_age_s:g} s"


def as_json(row: Row) -> dict[str, object]:
    """A cell for other programs; a digest age of null is never."""
    never = row.cell.digest_age_s == NEVER
    return {
        "workload": row.workload,
        "peers": row.cell.peers,
        "delay_s": row.cell.delay_s,
        "digest_age_s": None if never else row.cell.digest_age_s,
        "ratio": row.ratio,
        "best_other": row.best_other,
        "policies": {name: asdict(result) for name, result in row.results.items()},
    }


if __name__ == "__main__":
    try:
        code = main()
    except Exception:  # noqa: BLE001 - Python's own code for it is that of a missed rule
        traceback.print_exc()
        code = 3
    sys.exit(code)
