"""The matrix judges: it believes neither Greenfly nor the oracle alone, and its page counts every cell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.matrix.cases import CASES
from tests.matrix.facets import Facts, differences
from tests.matrix.judge import Cell, judge, whole_run_problems
from tests.matrix.loader import Case
from tests.matrix.page import render_page
from tests.matrix.pair import Migrated, Recorded
from tests.matrix.run import Pair
from tests.matrix.servers import Program, Server, read_programs

OLD = Program(Path("old"), "redis", (6, 2, 16))
NEW = Program(Path("new"), "redis", (7, 4, 1))
DRAGONFLY = Program(Path("dragonfly"), "dragonfly", (1, 40, 1))
VALUE = Recorded("value", None, "another content")
REFUSED = (Recorded("missing", None, "not there"), Recorded("refused", None, "ERR unknown command"))
LOST = Recorded(
    "not-carried", "typed-rewrite", "written with typed commands, which do not carry entries-read"
)


def server(program: Program, *commands: bytes) -> Server:
    return Server(program, "redis://unused", frozenset(commands))


def case(name: str, *, big: bool = False) -> Case:
    return Case(name, lambda loader, key: None, big=big)


def told(name: str, *findings: Recorded, verdict: str = "FAIL", big: int = 0) -> Migrated:
    return Migrated(verdict, {name.encode(): findings}, big)


def judged(
    name: str, findings: tuple[Recorded, ...], ours: Facts, theirs: Facts, *, big: bool = False
) -> Cell:
    return judge(case(name, big=big), server(NEW), server(OLD), told(name, *findings), ours, theirs)


STRING = Facts("string", b"one")
OTHER = Facts("string", b"two")
STREAM = Facts("stream", ("entries", "last id", "groups"), entries_read={b"g": 3})
STREAM_LOST = replace(STREAM, entries_read={})


def test_equal_without_findings_is_a_pass() -> None:
    cell = judged("string/x", (), STRING, STRING)
    assert (cell.passed, cell.wrong, cell.outside) == (True, (), {})


def test_a_difference_that_greenfly_is_silent_about_is_wrong() -> None:
    assert judged("string/x", (), STRING, OTHER).wrong


def test_a_finding_that_the_oracle_does_not_see_is_wrong() -> None:
    [text] = [t for t in judged("string/x", (VALUE,), STRING, STRING).wrong if "sees nothing" in t]
    assert text.startswith("value")


def test_a_true_finding_that_nobody_expected_is_wrong() -> None:
    [text] = judged("string/x", (VALUE,), STRING, OTHER).wrong
    assert text.startswith("not expected")


def test_an_expected_finding_that_is_true_is_right() -> None:
    cell = judged("JSON/x", REFUSED, Facts("ReJSON-RL", {}), Facts("none"))
    assert (cell.wrong, cell.passed, cell.expected) == ((), False, False)


def test_a_difference_under_a_rule_is_expected() -> None:
    cell = judged("stream/x", (LOST,), STREAM, STREAM_LOST)
    assert (cell.wrong, cell.expected, cell.outside) == ((), True, {})


def test_what_not_carried_names_must_have_been_lost() -> None:
    assert judged("stream/x", (LOST,), STREAM, STREAM).wrong


@pytest.mark.parametrize(("big", "right"), [(False, True), (True, False)])
def test_what_equality_leaves_out_is_shown_and_must_be_named_where_commands_lost_it(
    big: bool, right: bool
) -> None:
    cell = judged("stream/x", (), STREAM, STREAM_LOST, big=big)
    assert list(cell.outside) == ["entries-read"]
    assert (not cell.wrong) == right


def test_lost_member_expiries_must_be_named() -> None:
    ours = Facts("set", frozenset({b"a"}), members_ms={b"a": 5_000_000})
    assert judged("set/member expiry x", (), ours, replace(ours, members_ms={})).wrong


@pytest.mark.parametrize(
    ("ours", "theirs", "facets"),
    [
        (STRING, Facts("none"), ["presence"]),
        (STRING, Facts("list", [b"one"]), ["type"]),
        (replace(STRING, expiry_ms=10_000), replace(STRING, expiry_ms=11_000), []),
        (replace(STRING, expiry_ms=10_000), replace(STRING, expiry_ms=11_001), ["expiry"]),
        (replace(STRING, expiry_ms=10_000), STRING, ["expiry"]),
        (Facts("hash", {}, fields_ms={b"f": 1}), Facts("hash", {}), ["field expiry"]),
        (replace(STREAM, counters=(1, b"0-0")), replace(STREAM, counters=None), []),
        (replace(STREAM, counters=(1, b"0-0")), replace(STREAM, counters=(2, b"0-0")), ["counters"]),
        (STREAM_LOST, STREAM, []),
        (Facts("zset", {b"m": -0.0}, negative_zeros=frozenset({b"m"})), Facts("zset", {b"m": 0.0}), ["sign of zero"]),
    ],
)  # fmt: skip
def test_the_oracle_tells_what_differs(ours: Facts, theirs: Facts, facets: list[str]) -> None:
    assert list(differences(ours, theirs)) == facets


def test_a_run_whose_parts_do_not_fit_is_wrong() -> None:
    cells = {"string/x": judged("string/x", (), STRING, STRING)}
    right = Migrated("PASS", {}, 0)
    there = {b"string/x"}
    assert not whole_run_problems(cells, right, [case("string/x")], there)
    assert whole_run_problems(cells, right, [case("string/x")], there | {b"greenfly:tmp:left"})
    assert whole_run_problems(cells, replace(right, verdict="FAIL"), [case("string/x")], there)
    assert whole_run_problems(cells, replace(right, big=1), [case("string/x")], there)
    assert whole_run_problems(cells, replace(right, findings={b"?": (VALUE,)}), [case("string/x")], there)


def test_cases_are_many_and_distinct() -> None:
    assert len({c.name for c in CASES}) == len({c.place for c in CASES}) == len(CASES) >= 45


def test_the_page_counts_every_cell_and_tells_each_text_once() -> None:
    same = judged("string/x", (), STRING, STRING)
    lost = judged("stream/x", (LOST,), STREAM, STREAM_LOST)
    refused = judged("JSON/x", REFUSED, Facts("ReJSON-RL", {}), Facts("none"))
    pairs = [
        Pair(source, target, "FAIL", {"string/x": same, "stream/x": lost, "JSON/x": refused}, ())
        for source in (OLD, DRAGONFLY)
        for target in (OLD, DRAGONFLY)
    ]
    page = render_page(pairs, ["string/x", "stream/x", "JSON/x"], datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    assert "| 12 | 4 | 4 | 4 | 0 |" in page
    assert "| stream/x | *expected: typed-rewrite*" in page
    assert "| JSON/x | **missing, refused**" in page
    assert page.count(LOST.detail) == 1
    assert "2026-01-02 03:04 UTC" in page


def test_programs_say_who_they_are(tmp_path: Path) -> None:
    def program(name: str, says: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    paths = [program("b", "dragonfly v1.40.1-4344"), program("a", "Redis server v=7.0.15 sha=0")]
    assert [p.title for p in read_programs(paths)] == ["Redis 7.0.15", "Dragonfly 1.40.1"]
    with pytest.raises(ValueError, match="given twice"):
        read_programs([paths[0], paths[0]])
    with pytest.raises(ValueError, match="which server"):
        read_programs([program("c", "something else")])
