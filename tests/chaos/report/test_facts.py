"""What the page takes from a history."""

from __future__ import annotations

import math

from chaos.history import What
from chaos.report import gauges, words
from chaos.report.curves import ttft_table
from chaos.report.facts import facts_of
from chaos.report.lanes import place
from tests.chaos.report import samples


def test_lives_have_spans_between_restarts() -> None:
    facts = facts_of(samples.rich().run)
    by_node = {life.node: life for life in facts.lives}
    assert by_node["n2"].downs == ((24.0, 33.2),)
    assert by_node["n2"].ups == ((0.1, 24.0, "1"), (33.2, 82.0, "2"))
    assert by_node["n1"].downs == ()


def test_a_node_that_never_came_back_is_down_to_the_end() -> None:
    maker = samples.Maker()
    maker.add(0.0, What.NODE_UP, "n1", generation=1, why="start")
    maker.add(4.0, What.NODE_DOWN, "n1", why="kill9")
    maker.add(9.0, What.PHASE, name="stopped")
    run = samples.run_of(maker, samples.schedule(maker, storm=1.0, duration=1.0))
    (life, *_) = facts_of(run).lives
    assert life.downs == ((4.0, 9.0),)


def test_an_orderly_end_is_no_fall() -> None:
    maker = samples.Maker()
    maker.add(0.0, What.NODE_UP, "n1", generation=1, why="start")
    maker.add(4.0, What.STOPPED, "n1", took_s=0.1)
    maker.add(4.0, What.NODE_DOWN, "n1", why="left")
    maker.add(9.0, What.PHASE, name="stopped")
    run = samples.run_of(maker, samples.schedule(maker, storm=1.0, duration=1.0))
    (life, *_) = facts_of(run).lives
    assert life.downs == ()
    assert [change for _, change, _ in life.changes] == ["up", "stopped"]


def test_requests_have_every_outcome_and_times() -> None:
    facts = facts_of(samples.rich().run)
    assert {each.outcome for each in facts.requests} == {
        "ok", "failed", "refused", "cancelled", "unknown", "open",
    }  # fmt: skip
    still = next(each for each in facts.requests if each.outcome == "open")
    assert still.to_s == facts.end_s
    first = next(each for each in facts.requests if each.outcome == "ok")
    tokens = next(e for e in facts.run.events if e.what is What.TOKENS and e.subject == first.id)
    assert first.ttft_s == tokens.at_s - first.from_s


def test_faults_that_were_not_applied_have_no_band() -> None:
    facts = facts_of(samples.rich().run)
    assert len(facts.outcomes) == 12
    assert [band.number for band in facts.bands] == list(range(1, 11))
    assert facts.disturbed() == ((14.0, 48.0),)


def test_a_gauge_over_its_cap_is_its_peak() -> None:
    maker = samples.Maker()
    maker.add(1.0, What.GAUGE, "n1", name="sockets", value=90, cap=100, baseline=None)
    maker.add(2.0, What.GAUGE, "n2", name="sockets", value=12, cap=10, baseline=4)
    maker.add(3.0, What.GAUGE, "n2", name="sockets", value=math.inf, cap=10, baseline=4)
    run = samples.run_of(maker, samples.schedule(maker, storm=1.0, duration=1.0))
    (gauge,) = facts_of(run).gauges
    assert gauge.peak() == ("n2", 2.0, 12.0)
    assert gauge.baselines == {"n2": 4.0}


def test_labels_in_a_row_never_overlap() -> None:
    spans = [(n * 10.0, n * 10.0 + 4, (f"{n} partition", str(n))) for n in range(40)]
    placed, rows = place(spans, 420.0)
    assert rows > 1
    by_row: dict[int, list[tuple[float, float]]] = {}
    for spot in placed:
        room = len(spot.text) * 6.0
        assert spot.text_x >= 0
        assert spot.text_x + room <= 420.0
        taken = by_row.setdefault(spot.row, [])
        mine = (min(spot.from_x, spot.text_x), max(spot.to_x, spot.text_x + room))
        assert all(mine[0] >= end or mine[1] <= start for start, end in taken)
        taken.append(mine)


def test_quantiles_are_by_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert words.quantile(values, 0.99) == 99.0
    assert words.quantile(values, 1.0) == 100.0
    assert words.quantile([3.0], 0.5) == 3.0
    rows = ttft_table(facts_of(samples.rich().run))
    assert [row["name"] for row in rows][-1] == "slowest"


def test_foreign_text_prints_and_is_cut() -> None:
    shown = words.clean("a\x00\u202eb\ud800\n" + "x" * 500, 40)
    assert shown.isprintable()
    assert shown.startswith("a\\x00\\u202eb\\ud800\\x0a")
    assert shown.endswith("(506 characters)")
    assert words.label("\u00fcber\x1b") == "\\xfcber\\x1b"
    assert len(words.label("y" * 99)) == words.LABEL_MAX


def test_numbers_in_words() -> None:
    assert words.seconds(0.0123) == "12.3 ms"
    assert words.seconds(None) == words.NONE
    assert words.quantity(33254.7) == "33,255"
    assert words.quantity(0.12345) == "0.123"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.share(0.4712) == "47.1 %"


def test_gauges_that_ask_for_a_look_come_first() -> None:
    maker = samples.Maker()
    maker.add(0.0, What.NODE_UP, "n1", generation=1, why="start")
    for name, values, cap, base in (
        ("calm", (1, 2, 1), 100, None),
        ("near", (1, 90, 1), 100, None),
        ("over", (1, 101, 1), 100, None),
        ("stays", (1, 5, 4), None, 1),
        ("same", (7, 7, 7), 8, None),
    ):
        for at_s, value in enumerate(values):
            maker.add(at_s, What.GAUGE, "n1", name=name, value=value, cap=cap, baseline=base)
    run = samples.run_of(maker, samples.schedule(maker, storm=1.0, duration=1.0))
    order = gauges.ranked(facts_of(run))
    assert [each.name for each in order] == ["over", "stays", "near", "same", "calm"]
    assert [each.flat for each in order] == [False, False, False, True, False]
    assert "which it exceeds" in gauges.told(order[0])
    assert "at the end above what it was before the storm at n1" in gauges.told(order[1])
    assert gauges.table(order)[2] == {
        "name": "near", "node": "n1", "peak": "90", "cap": "100", "share": "90 %", "end": "1",
        "before": words.NONE,
    }  # fmt: skip


def test_an_answer_without_a_cached_token_looks_otherwise() -> None:
    facts = facts_of(samples.rich().run)
    ok = [each for each in facts.requests if each.outcome == "ok"]
    assert {each.look for each in ok} == {"ok", "cold"}
    assert all((each.cached_tokens == 0) == (each.look == "cold") for each in ok)
