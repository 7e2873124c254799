"""The page of a run as text: what is said, and that nothing hostile gets through."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chaos.report.page import page
from chaos.result import REPORT, write_result
from chaos.verdict import Judged
from tests.chaos.report import samples

SIZE_MAX = 3_000_000
VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "rect"}


class Checked(HTMLParser):
    """Elements, ids and text of a page; ``loose`` are tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.said: list[str] = []
        self.loose: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "id" and value:
                self.ids.append(value)
            if name in {"href", "src"} and value:
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.loose.append(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.fixture(scope="module")
def broken() -> Judged:
    return samples.rich()


@pytest.mark.parametrize("make", [samples.rich, samples.bare, samples.hostile])
def test_markup_is_sound_and_needs_nothing_from_outside(make: type) -> None:
    text = page(make())
    checked = Checked(text)
    assert checked.loose == []
    assert len(checked.ids) == len(set(checked.ids))
    assert {"script", "img", "iframe", "object", "form"}.isdisjoint(checked.tags)
    for link in checked.links:
        assert link == "data:," or link.removeprefix("#") in checked.ids
    for found in re.findall(r"url\(([^)]*)\)", text):
        assert found.removeprefix("#") in checked.ids
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_verdict_comes_first_and_says_what_was_broken(broken: Judged) -> None:
    said = " ".join(Checked(page(broken)).said)
    words = re.sub(r"\s+", " ", said)
    assert "OUTPUT was broken. Expected: the tokens of r90 equal those of a cold run" in words
    assert words.index("OUTPUT was broken") < words.index("Promises")
    assert "wrong-token-after-hit" in words
    assert "rhizome chaos replay failure.json" in words
    assert "The five events before" in words
    assert "its landmark never came" in words
    assert "no: unsupported" in words
    assert "47 % of the bound of 20.00 s" in words


def test_the_five_events_before_are_those_of_the_failure(broken: Judged) -> None:
    (finding,) = [each for each in broken.findings if each.witnesses]
    last = max(finding.witnesses[0].events)
    text = page(broken)
    for index in range(last - 5, last + 1):
        assert f'data-label="line">{index + 1:,}<' in text


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: samples.rich(violated=False), "10 promises put to the test, and kept."),
        (samples.bare, "never reached what it was to show (stale_claim_recovered)"),
    ],
    ids=["valid", "unknown"],
)
def test_other_verdicts_in_words(make: type, sentence: str) -> None:
    assert sentence in page(make())


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    text = page(samples.hostile())
    said = "".join(Checked(text).said)
    assert "<script>alert(1)</script>" in said
    assert "{{ 7*7 }}" in said
    assert "49" not in re.findall(r"\\frac\{x\}\{0\}\$ (\S+)", said)
    assert "\u202e" not in text
    assert "\x00" not in text
    text.encode("utf-8")


def test_equal_runs_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    mine = page(samples.rich())
    assert page(samples.rich()) == mine
    root = Path(__file__).resolve().parents[3]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import samples\n"
        "from chaos.report.page import write_report\n"
        "write_report(samples.rich(), Path(sys.argv[2]))\n"
    )
    other = tmp_path / "other.html"
    subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(other)],
        cwd=root, check=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "4", "PYTHONPATH": str(root),
             "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    digest = re.compile(r"<dt>sources</dt>.*")  # of the files as they are, read in each process
    assert digest.sub("", other.read_text(encoding="utf-8")) == digest.sub("", mine)


def test_twenty_minutes_and_two_thousand_requests_stay_small() -> None:
    assert len(page(samples.long()).encode()) < SIZE_MAX


def test_a_run_s_folder_has_the_page(tmp_path: Path, broken: Judged) -> None:
    failure = write_result(broken, tmp_path)
    assert failure is not None
    assert (tmp_path / REPORT).read_text(encoding="utf-8") == page(broken)
