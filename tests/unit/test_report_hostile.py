"""Keys and texts that are made to do harm: every form of a report shows them, gives them back, and no more."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import FindingClass, FindingState, PhaseName, RunKind, RunState, Verdict
from integrity.ledger.store import NewFinding
from integrity.settings import Settings
from reports import write_report
from reports.display import key_from_text, key_text, plain_text
from reports.findings_table import safe_key_text
from reports.html import KEY_BYTES_SHOWN
from reports.write import ReportFiles, ReportFormat
from tests.cli import Greenfly
from tests.inprocess import run_here
from tests.unit import report_fixtures as runs
from tests.unit.report_pages import Page

DANGEROUS = tuple("=+-@\t\r＝＋－＠")
HARMFUL = (
    *runs.HOSTILE_KEYS,
    b"<svg/onload=alert(1)>",
    b"' autofocus onfocus='x",
    b"javascript:alert(1)",
    b"<!--",
    b"]]>",
    b"&lt;b&gt;&amp;&#60;&#x3c;",
    b"</title><script>",
    b"\x1b[2J\x1b]0;owned\x07",
    b"\x9b31m",
    b"\x00\x01\x02\x7f\x80\x9f",
    "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f".encode(),
    "\u2028\u2029\u0085\ufeff\u00ad\u115f".encode(),
    "\u0301combining first".encode(),
    b"\xed\xa0\x80 half a character",
    b"\xf4\x90\x80\x80",
    b'","a"\n"=1',
    b"\r\nSet-Cookie: x",
    b"=cmd|'/C calc'!A0;=1,=2\t=3 =4",
    b"{{ config }}{% for x in y %}",
)
pieces = st.one_of(
    st.sampled_from(HARMFUL).map(lambda key: key[:200]),
    st.binary(max_size=12),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
keys = st.lists(pieces, max_size=4).map(b"".join)
words = st.text(st.characters(codec="utf-8"), max_size=60)


@given(keys)
def test_the_text_of_a_key_leads_back_and_shows_all_that_is_there(key: bytes) -> None:
    text = key_text(key)
    assert key_from_text(text) == key
    assert text.isprintable()
    assert key_from_text(safe_key_text(text)) == key
    assert not safe_key_text(text).startswith(DANGEROUS)


@given(st.text())
def test_free_text_is_one_line_without_what_cannot_be_seen(text: str) -> None:
    assert plain_text(text).isprintable()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path_factory.mktemp("hostile")))
    yield opened
    opened.close()


def reported(ledger: Ledger, folder: Path, found: Sequence[bytes], word: str = "w") -> ReportFiles:
    """A run with a finding for each key, and *word* wherever a text can be, in all formats."""
    run = ledger.start_run(RunKind.VERIFY, Settings(label=f"l {word}"))
    kinds = list(FindingClass)
    run.add_findings(
        PhaseName.VERIFY,
        [
            NewFinding(
                kinds[number % len(kinds)],
                number % 3,
                key,
                word,
                "string",
                detail=word,
                rule=word if number % 2 else None,
                state=list(FindingState)[number % 4],
            )
            for number, key in enumerate(found)
        ],
    )
    run.tally(PhaseName.VERIFY, {(0, f"k {word}"): (1, 1)})
    run.event("server.lost", {"problem": word, word: word})
    run.finish(RunState.FAILED, verdict=Verdict.FAIL, reason=word, error_kind="X", error=word)
    return write_report(ledger, run.id, folder, list(ReportFormat))


@pytest.fixture(scope="module")
def harmless(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """What a page is made of when nobody wants any harm."""
    files = reported(ledger, tmp_path_factory.mktemp("harmless"), [b"a:%d" % number for number in range(40)])
    return Page(files.html.read_text("utf-8"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(keys, min_size=1, max_size=40, unique=True), words)
def test_every_form_gives_each_key_back_and_interprets_nothing(
    ledger: Ledger, harmless: Page, tmp_path: Path, found: list[bytes], word: str
) -> None:
    files = reported(ledger, tmp_path, found, word)
    html = files.html.read_text("utf-8")
    assert_only_text(html, harmless)
    page = Page(html)
    assert sorted(map(key_from_text, page.keys)) == sorted(key for key in found if key)
    facts = json.loads(files.json.read_text("utf-8"))
    assert [bytes.fromhex(row["key"]["hex"]) for row in facts["findings"]] == found
    assert [key_from_text(row["key"]["text"]) for row in facts["findings"]] == found
    with files.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bytes.fromhex(row["key_hex"]) for row in rows] == found
    assert [key_from_text(row["key_text"]) for row in rows] == found
    assert not any(cell.startswith(DANGEROUS) for row in rows for cell in row.values())
    assert pq.read_table(files.parquet)["key"].to_pylist() == found


def assert_only_text(html: str, harmless: Page) -> None:
    page = Page(html)
    assert not page.unbalanced
    assert not page.open
    known = {tag for tag, _ in harmless.elements}
    assert {tag for tag, _ in page.elements} <= known
    attributes = {(tag, name) for tag, attrs in harmless.elements for name in attrs}
    assert {(tag, name) for tag, attrs in page.elements for name in attrs} <= attributes | {("td", "rowspan")}
    assert sum(tag in ("h1", "title", "style") for tag, _ in page.elements) == sum(
        tag in ("h1", "title", "style") for tag, _ in harmless.elements
    )
    assert all(char.isprintable() or char == "\n" for char in html)


def test_a_key_of_ten_megabytes(ledger: Ledger, tmp_path: Path) -> None:
    key = (b"<b>user:" + b"x" * 1_000 + b"\xff\x1b") * 10_000 + "ü".encode() * 100
    began = time.process_time()
    files = reported(ledger, tmp_path, [key, b"small"])
    assert time.process_time() - began < 30
    html = files.html.read_text("utf-8")
    assert len(html) < 500_000
    shown = Page(html).keys
    assert max(len(key_from_text(text)) for text in shown) <= KEY_BYTES_SHOWN
    assert f"{len(key) - KEY_BYTES_SHOWN:,} more bytes" in html
    row = json.loads(files.json.read_text("utf-8"))["findings"][0]
    assert bytes.fromhex(row["key"]["hex"]) == key_from_text(row["key"]["text"]) == key
    before = csv.field_size_limit(200_000_000)
    try:
        with files.csv.open(encoding="utf-8", newline="") as file:
            assert bytes.fromhex(next(csv.DictReader(file))["key_hex"]) == key
    finally:
        csv.field_size_limit(before)
    assert pq.read_table(files.parquet)["key"][0].as_py() == key


def test_no_control_sequence_reaches_a_terminal(greenfly: Greenfly) -> None:
    word = "\x1b[31mred\x1b]0;owned\x07 \u202evil\x9b1m"
    ledger = open_ledger(Settings(state_dir=greenfly.state_dir))
    try:
        files = reported(ledger, greenfly.folder / "out", HARMFUL, word)
        run_id = ledger.runs(1)[0].id
    finally:
        ledger.close()
    for command in (
        ("runs", "show", run_id, "--findings", "100"),
        ("runs", "list"),
        ("report", run_id, "--format", "html", "--format", "parquet"),
        ("report", run_id, "--json"),
        ("runs", "list", "--json"),
    ):
        done = run_here(greenfly, *command)
        assert done.exit_code == 0, done.stderr
        for text in (done.stdout, done.stderr):
            assert all(char.isprintable() or char == "\n" for char in text), command
    shown = run_here(greenfly, "runs", "show", run_id, "--findings", "100").stdout
    assert all(key_text(key) in shown for key in HARMFUL if key and len(key) < 100)
    assert files.parquet.exists()
