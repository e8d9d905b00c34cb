"""What results amount to: verdict, waivers, grade, which checks are made, which road ``auto`` takes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from integrity.assess.census import Census, KeyFact
from integrity.assess.choose import choose
from integrity.assess.grade import grade
from integrity.assess.model import Check, Outcome, Result, Severity, passed
from integrity.assess.registry import all_checks, find_check, select_checks
from integrity.assess.verdict import conclude
from integrity.assess.waivers import apply_waivers, covering, place, read_until
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ConfigurationError
from integrity.ledger.assessments import RecordedResult, fit
from integrity.ledger.vocabulary import Verdict
from integrity.ledger.waivers import WaiverRecord
from integrity.settings import Settings, load_settings
from integrity.strategy import Strategy

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def result(
    check: str = "commands.unknown",
    outcome: Outcome = Outcome.FOUND,
    severity: Severity = Severity.BLOCKING,
    items: tuple[str, ...] = (),
) -> Result:
    return Result(check, "A title", outcome, severity, "A summary.", items=items)


def waiver(*items: str, **more: object) -> WaiverRecord:
    made = WaiverRecord(
        1,
        "redis://blue:6379",
        "redis://green:6379",
        "commands.unknown",
        Outcome.FOUND,
        items,
        "why",
        "ops",
        NOW - timedelta(days=1),
        NOW + timedelta(days=1),
        "20260101-000000-abcdef",
    )
    return replace(made, **more)  # type: ignore[arg-type]


# -- verdict -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([RecordedResult(result(outcome=Outcome.PASSED, severity=Severity.INFO))], Verdict.PASS),
        ([RecordedResult(result(severity=Severity.WARNING))], Verdict.PASS),
        ([RecordedResult(result(outcome=Outcome.UNKNOWN, severity=Severity.WARNING))], Verdict.PASS),
        ([RecordedResult(result(), (1,))], Verdict.PASS_WITH_EXCEPTIONS),
        ([RecordedResult(result(outcome=Outcome.UNKNOWN))], Verdict.INCONCLUSIVE),
        ([RecordedResult(result())], Verdict.FAIL),
        ([RecordedResult(result()), RecordedResult(result("b", Outcome.UNKNOWN))], Verdict.FAIL),
        ([RecordedResult(result(), (1,)), RecordedResult(result("b"))], Verdict.FAIL),
        ([], Verdict.INCONCLUSIVE),
        ([RecordedResult(result(outcome=Outcome.NOT_APPLICABLE))], Verdict.INCONCLUSIVE),
    ],
)
def test_the_verdict_is_the_worst_that_no_waiver_lets_pass(
    results: list[RecordedResult], verdict: Verdict
) -> None:
    assert conclude(results).verdict is verdict


def test_a_verdict_says_how_many_checks_were_left_out() -> None:
    made = [RecordedResult(result(outcome=Outcome.PASSED, severity=Severity.INFO))]
    assert "2 checks left out" in conclude(made, ("a.b", "c.d")).reason


# -- waivers -----------------------------------------------------------------------------------------------------------


def test_a_waiver_covers_what_it_names_and_nothing_that_is_found_later() -> None:
    assert covering(result(items=("lcs",)), [waiver("lcs")], NOW) == ((waiver("lcs"),), ())
    assert covering(result(items=("lcs", "sort_ro")), [waiver("lcs")], NOW)[1] == ("sort_ro",)
    together = [waiver("lcs"), waiver("sort_ro", id=2)]
    assert apply_waivers([result(items=("lcs", "sort_ro"))], together, NOW)[0].waivers == (1, 2)
    # What was one thing is by name now.
    assert covering(result(items=("lcs",)), [waiver()], NOW)[1] == ("lcs",)
    assert covering(result(), [waiver()], NOW)[1] == ()
    assert covering(result(), [waiver("lcs")], NOW)[1] == ("*",)


@pytest.mark.parametrize(
    "other",
    [
        waiver("lcs", until=NOW),
        waiver("lcs", at=NOW + timedelta(seconds=1)),
        waiver("lcs", withdrawn_at=NOW - timedelta(hours=1)),
        waiver("lcs", check_id="commands.subcommands"),
        waiver("lcs", outcome=Outcome.UNKNOWN),
    ],
    ids=["expired", "not yet", "withdrawn", "another check", "another outcome"],
)
def test_a_waiver_that_is_not_in_force_or_for_something_else_covers_nothing(other: WaiverRecord) -> None:
    (judged,) = apply_waivers([result(items=("lcs",))], [other], NOW)
    assert judged.open
    assert judged.waivers == ()


def test_what_does_not_block_needs_no_waiver() -> None:
    (judged,) = apply_waivers([result(severity=Severity.WARNING, items=("lcs",))], [waiver("lcs")], NOW)
    assert (judged.open, judged.waivers) == (False, ())


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("2W", NOW + timedelta(weeks=2)),
        ("2026-06-01", datetime(2026, 6, 1, 23, 59, 59, 999_999, UTC)),
        ("2026-06-02T01:00+02:00", datetime(2026, 6, 1, 23, tzinfo=UTC)),
    ],
)
def test_the_end_of_a_waiver_is_a_day_a_moment_or_a_duration(text: str, until: datetime) -> None:
    assert read_until(text, NOW) == until


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "0d",
        "2026-05-31",
        "2027-06-03",
        "54w",
        "99999w",
        "2026-06-02T01:00",
        "-1d",
        "1y",
        "1.5d",
        "٣d",
    ],
)
def test_an_end_that_is_past_too_far_or_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_until(text, NOW)


def test_a_waiver_is_for_servers_whoever_looks_at_them() -> None:
    def at(url: str) -> str:
        settings = load_settings({"source": {"url": url}}, environ={}).settings
        return place(Endpoint.from_settings("source", settings.source))

    assert at("redis://ops:secret@blue:6379") == at("redis://blue") == "redis://blue:6379"
    assert at("unix://ops:secret@/run/redis.sock") == "unix:///run/redis.sock"


# -- grade -------------------------------------------------------------------------------------------------------------


def census(**more: object) -> Census:
    made = Census(full=True, keys_present=10, keys_looked_at=10, seconds=0.1, method="all")
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("results", "looked", "keys", "memory", "letter", "points"),
    [
        ([], None, 1000, 1000, "A", 0),
        ([result(severity=Severity.WARNING)] * 3, None, 5_000_000, 0, "B", 8),
        ([result()], None, 0, 0, "C", 10),
        ([result(outcome=Outcome.UNKNOWN)] * 2, None, 0, 0, "D", 20),
        ([result()] * 9, None, 10**9, 1 << 40, "E", 72),
        ([], census(types={"string": 5, "stream": 1, "ReJSON-RL": 1}), 10, 0, "A", 2),
        ([], census(keys_looked_at=1, bytes_by_type={"hash": 1 << 30}), 10, 1, "A", 4),
        ([], census(big=(KeyFact(0, b"k", "hash", 1 << 27, 9),) * 6), 10, 1, "A", 4),
    ],
)
def test_the_grade_is_the_sum_of_its_parts(
    results: list[Result], looked: Census | None, keys: int, memory: int, letter: str, points: int
) -> None:
    made = grade(results, looked, keys, memory)
    assert (made.letter, made.points) == (letter, points)
    assert made.points == sum(part.points for part in made.parts)


# -- which checks ------------------------------------------------------------------------------------------------------

CHECKS = tuple(
    Check(name, "A title", Severity.INFO, lambda subject: passed("fine"))
    for name in ("a.one", "a.two", "b.one")
)


@pytest.mark.parametrize(
    ("only", "skip", "chosen"),
    [
        ((), (), ["a.one", "a.two", "b.one"]),
        (("a",), (), ["a.one", "a.two"]),
        (("b.one", "a.one"), (), ["a.one", "b.one"]),
        ((), ("a",), ["b.one"]),
        (("a",), ("a.two",), ["a.one"]),
    ],
)
def test_checks_are_chosen_by_id_or_by_the_part_before_the_dot(
    only: tuple[str, ...], skip: tuple[str, ...], chosen: list[str]
) -> None:
    selection = select_checks(only, skip, CHECKS)
    assert [check.id for check in selection.chosen] == chosen
    assert {*chosen, *selection.left_out} == {check.id for check in CHECKS}


@pytest.mark.parametrize(("only", "skip"), [(("c",), ()), ((), ("a.",)), (("",), ()), (("a",), ("a",))])
def test_a_name_that_no_check_has_and_a_choice_of_none_are_refused(
    only: tuple[str, ...], skip: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError):
        select_checks(only, skip, CHECKS)


def test_ids_of_checks_are_unique_and_have_a_group() -> None:
    ids = [check.id for check in all_checks()]
    assert len(ids) == len(set(ids)) > 0
    assert all(name.count(".") == 1 and name == name.lower() for name in ids)
    assert find_check(ids[0]).id == ids[0]
    with pytest.raises(ConfigurationError):
        find_check("no.such")


# -- auto --------------------------------------------------------------------------------------------------------------


def identity(engine: str = "dragonfly", keys: int = 0) -> Identity:
    return Identity(
        "redis://green:6379",
        engine,
        "1.0",
        "id",
        "master",
        "standalone",
        0,
        0,
        {0: keys} if keys else {},
        True,
        "none",
        NOW,
    )


def settings(**more: object) -> Settings:
    return load_settings(
        {"source": {"url": "redis://blue"}, "target": {"url": "redis://green"}, **more}, environ={}
    ).settings


def test_auto_is_native_where_nothing_speaks_against_it() -> None:
    made = choose(settings(), identity(), [result(severity=Severity.WARNING)])
    assert made.strategy is Strategy.NATIVE
    assert made.why
    replacing = settings(copy={"conflict": "replace"})
    assert choose(replacing, identity(keys=5), []).strategy is Strategy.NATIVE


@pytest.mark.parametrize(
    ("more", "target"),
    [
        ({}, identity("redis")),
        ({}, identity(keys=5)),
        ({"copy": {"conflict": "skip"}}, identity()),
        ({"databases": [0]}, identity()),
        ({"source": {"url": "redis://blue/1"}}, identity()),
        ({"rules": {"exclude": ["tmp:*"]}}, identity()),
        ({"rules": {"databases": {"1": 0}}}, identity()),
        ({"replica": {"url": "redis://replica"}}, identity()),
    ],
    ids=["no dragonfly", "keys", "skip", "databases", "database of the url", "rule", "map", "replica"],
)
def test_auto_copies_where_replication_could_not_do_as_asked(
    more: dict[str, object], target: Identity
) -> None:
    made = choose(settings(**more), target, [])
    assert made.strategy is Strategy.COPY
    assert len(made.why) == 1


def test_auto_copies_where_a_check_blocks_the_native_road_only_waived_or_not() -> None:
    blocking = result("native.version")
    assert choose(settings(), identity(), [blocking]).strategy is Strategy.COPY
    assert "native.version" in choose(settings(), identity(), [blocking]).why[0]
    # What stops both roads does not speak for one of them.
    assert choose(settings(), identity(), [blocking], [blocking]).strategy is Strategy.NATIVE
    softer = replace(blocking, severity=Severity.WARNING)
    assert choose(settings(), identity(), [blocking], [softer]).strategy is Strategy.COPY
    more = replace(blocking, items=("a",))
    assert choose(settings(), identity(), [more], [blocking]).strategy is Strategy.COPY


# -- what the ledger holds ---------------------------------------------------------------------------------------------


def test_a_result_is_made_fit_for_every_database_and_tells_no_password() -> None:
    strange = Result(
        "a.b",
        "t\0",
        Outcome.FOUND,
        Severity.WARNING,
        "redis://u:secret@host:1 \udcff",
        {
            "bytes": b"\xff\0",
            "set": {2, 1},
            "inf": float("inf"),
            "at": NOW,
            "in": {"url": "redis://u:secret@h"},
        },
        items=("\ud800",),
    )
    made = fit(strange)
    assert made.title == "t\\x00"
    assert "secret" not in made.summary + str(made.evidence)
    assert made.evidence == {
        "bytes": "\\xff\\x00",
        "set": [1, 2],
        "inf": "inf",
        "at": NOW.isoformat(),
        "in": {"url": "redis://u:***@h"},
    }
    assert made.items == ("\\ud800",)
    with pytest.raises(TypeError):
        fit(replace(strange, evidence={"object": object()}))
