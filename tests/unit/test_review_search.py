"""Finding some of many findings: every page of every question holds what going through all of them would find."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from integrity.errors import ConfigurationError
from integrity.glob import compile_patterns
from integrity.ledger import Ledger, finding_search, open_ledger
from integrity.ledger.finding_search import FindingQuery, count_findings, databases_of, search_findings
from integrity.ledger.key_search import KeyForm, KeyWanted, read_wanted
from integrity.ledger.models import Finding, FindingClass, FindingState, PhaseName, RunKind
from integrity.ledger.store import NewFinding
from integrity.rule_text import read_pattern
from integrity.settings import load_settings
from tests.ledger import Postgres

LONG = b"a-long-beginning-that-many-keys-share-" * 3
CLASSES = (FindingClass.MISSING, FindingClass.VALUE, FindingClass.EXTRA)
STATES = (FindingState.OPEN, FindingState.SETTLED, FindingState.EXCEPTION)
KINDS = ("string", "hash", None)


@dataclass(frozen=True, slots=True)
class Held:
    """A ledger with many findings of two runs, and those of the first."""

    ledger: Ledger
    run_id: str
    findings: list[Finding]


def keys() -> Iterator[bytes]:
    chance = random.Random(7)
    yield from (b"", b"\xff", b"\xff\xff\xff", b"%_\\", b"<script>", LONG, LONG + b"x" * 5_000 + b"tail")
    for number in range(300):
        yield chance.choice((b"user:%d", b"cart:%d:items", LONG + b"%d", b"\xff\x00%d", b"50%%_%d")) % number


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """One ledger for all: nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("ledger")
    values: dict[str, object] = {"state_dir": folder}
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        assert isinstance(postgres, Postgres)
        values["ledger_url"] = postgres.database().render_as_string(hide_password=False)
    settings = load_settings(values, environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        chance = random.Random(3)
        runs = [ledger.start_run(RunKind.VERIFY, settings) for _ in range(2)]
        for run in runs:
            run.add_findings(
                PhaseName.VERIFY,
                [
                    NewFinding(
                        chance.choice(CLASSES),
                        chance.choice((0, 0, 0, 3, 11)),
                        key,
                        chance.choice(KINDS),
                        chance.choice(KINDS),
                        state=chance.choices(STATES, (30, 5, 1))[0],
                    )
                    for key in keys()
                ],
            )
        yield Held(ledger, runs[0].id, ledger.findings(runs[0].id))
        for run in runs:
            run.close()


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many stretches even of few findings."""
    monkeypatch.setattr(finding_search, "_WINDOW", 37)


def every_page(held: Held, query: FindingQuery, *, limit: int = 45, seconds: float = 5.0) -> list[int]:
    ids: list[int] = []
    cursor = None
    for _ in range(2_000):
        page = search_findings(held.ledger.engine, query, cursor=cursor, limit=limit, seconds=seconds)
        ids += [row.id for row in page.rows]
        assert len(page.rows) <= limit or (query.key is not None and query.key.exact is not None)
        if page.next is None:
            return ids
        assert page.out_of_time or len(page.rows) == limit
        cursor = page.next
    raise AssertionError("the pages do not end")


def plainly(held: Held, query: FindingQuery) -> set[int]:
    def fits(found: Finding) -> bool:
        return (
            (not query.classes or found.finding_class in query.classes)
            and (not query.states or found.state in query.states)
            and query.database in (None, found.database)
            and (query.kind is None or query.kind in (found.source_kind, found.target_kind))
            and (query.key is None or fits_key(query.key, found.key))
        )

    return {found.id for found in held.findings if fits(found)}


def fits_key(wanted: KeyWanted, key: bytes) -> bool:
    if wanted.exact is not None:
        return key == wanted.exact
    return key.startswith(wanted.begins) and (wanted.pattern is None or wanted.pattern.match(key) is not None)


wanted_keys = st.one_of(
    st.none(),
    st.sampled_from(["user:5", "", "%_", "user:7", r"\xff", r"\xff\x00", LONG.decode(), "nothing"]).flatmap(
        lambda text: st.sampled_from([KeyForm.TEXT, KeyForm.BEGINS]).map(lambda form: read_wanted(text, form))
    ),
    st.sampled_from(
        [
            "*",
            "user:*",
            "user:*7",
            "*:items",
            "*%*",
            "*_*",
            "c?rt:[1-3]*",
            r"\xff*",
            "*tail",
            "[uc]*7*",
            "a-*5",
            "50%_*",
        ]
    ).map(lambda text: read_wanted(text, KeyForm.PATTERN)),
)


@given(
    st.lists(st.sampled_from(CLASSES), max_size=2, unique=True),
    st.lists(st.sampled_from(STATES), max_size=2, unique=True),
    st.sampled_from([None, 0, 3, 5]),
    st.sampled_from([None, "string", "zset"]),
    wanted_keys,
    st.sampled_from([5.0, 0.0]),
)
@hypothesis_settings(deadline=None, max_examples=25)
def test_the_pages_together_hold_exactly_what_fits_and_each_once(
    held: Held,
    classes: list[FindingClass],
    states: list[FindingState],
    database: int | None,
    kind: str | None,
    key: KeyWanted | None,
    seconds: float,
) -> None:
    query = FindingQuery(held.run_id, tuple(classes), tuple(states), database, kind, key=key)
    found = every_page(held, query, seconds=seconds)
    assert len(found) == len(set(found))
    assert set(found) == plainly(held, query)


def test_ages_are_those_of_the_first_sighting(held: Held) -> None:
    now = datetime.now(UTC)
    for query, count in (
        (FindingQuery(held.run_id, seen_before=now), len(held.findings)),
        (FindingQuery(held.run_id, seen_before=now - timedelta(hours=1)), 0),
        (FindingQuery(held.run_id, seen_after=now - timedelta(hours=1)), len(held.findings)),
        (FindingQuery(held.run_id, seen_after=now + timedelta(hours=1)), 0),
    ):
        assert len(every_page(held, query)) == count


def test_of_a_long_key_only_the_beginning_is_read_and_the_length_is_known(held: Held) -> None:
    wanted = read_wanted("*tail", KeyForm.PATTERN)
    row = search_findings(held.ledger.engine, FindingQuery(held.run_id, key=wanted)).rows[0]
    assert (len(row.key), row.key_bytes) == (finding_search.KEY_BYTES_READ, len(LONG) + 5_004)


def test_a_run_without_findings_has_no_page(held: Held) -> None:
    for query in (FindingQuery("nothing"), FindingQuery("nothing", states=(FindingState.OPEN,))):
        page = search_findings(held.ledger.engine, query)
        assert (page.rows, page.next, page.out_of_time) == ((), None, False)


def test_databases_and_counts_are_those_of_the_run(held: Held) -> None:
    assert databases_of(held.ledger.engine, held.run_id) == sorted({f.database for f in held.findings})
    settled = sum(found.state is FindingState.SETTLED for found in held.findings)
    assert count_findings(held.ledger.engine, held.run_id, FindingState.SETTLED, 10_000) == settled
    assert count_findings(held.ledger.engine, held.run_id, FindingState.OPEN, 10) == 10


@pytest.mark.parametrize("cursor", ["x", "-1", "1.2.3", "abc.1", "0" * 30, "1'; DROP TABLE run", "\u0663"])
def test_a_cursor_of_another_shape_is_refused(held: Held, cursor: str) -> None:
    with pytest.raises(ConfigurationError):
        search_findings(held.ledger.engine, FindingQuery(held.run_id), cursor=cursor)


@given(st.text(st.sampled_from("ab*?[]^-\\"), min_size=1, max_size=12), st.binary(max_size=8))
@hypothesis_settings(deadline=None)
def test_what_is_known_of_a_pattern_holds_for_every_key_that_it_matches(text: str, key: bytes) -> None:
    elements = read_pattern(text)
    wanted = read_wanted(text, KeyForm.PATTERN)
    assert wanted is not None
    for each in (
        key,
        *(key.translate(bytes.maketrans(bytes(range(8)), b"ab*[]^-?")) for _ in range(1)),
        b"ab",
        b"a",
    ):
        matches = compile_patterns([elements]).match(each) is not None
        assert fits_key(wanted, each) is matches
        assert not matches or wanted.holds in each


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("abc", KeyForm.HEX),
        ("zz", KeyForm.HEX),
        ("\\", KeyForm.TEXT),
        ("\\x1", KeyForm.BEGINS),
        ("[a-\\xff]", KeyForm.PATTERN),
    ],
)
def test_a_key_that_cannot_be_read_is_refused(text: str, form: KeyForm) -> None:
    with pytest.raises(ConfigurationError):
        read_wanted(text, form)


def test_hexadecimal_digits_name_one_key_or_how_keys_begin() -> None:
    assert read_wanted("ff00", KeyForm.HEX) == KeyWanted(exact=b"\xff\x00")
    assert read_wanted("FF00*", KeyForm.HEX) == KeyWanted(begins=b"\xff\x00")
    assert read_wanted("", KeyForm.HEX) is None
