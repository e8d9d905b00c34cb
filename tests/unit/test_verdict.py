"""What may be said after a comparison: a PASS only where everything was compared and agreed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.ledger.models import FindingClass as Class
from integrity.ledger.models import FindingState as State
from integrity.ledger.models import Verdict
from integrity.verify.verdict import DIFFERENCES, Coverage, conclude

Counts = dict[tuple[Class, State], int]

ALL = Coverage(source_keys=100, compared=100, target_scanned=100)
NOTHING = Coverage(source_keys=0, compared=0, target_scanned=0)

TABLE: dict[str, tuple[Coverage, Counts, Verdict]] = {
    "everything agrees": (ALL, {}, Verdict.PASS),
    "nothing was there": (NOTHING, {}, Verdict.INCONCLUSIVE),
    "everything expired": (Coverage(100, 0, 0), {}, Verdict.INCONCLUSIVE),
    "a key could not be read": (ALL, {(Class.UNREADABLE, State.OPEN): 1}, Verdict.INCONCLUSIVE),
    "a key could not be read and one differs": (
        ALL,
        {(Class.UNREADABLE, State.OPEN): 1, (Class.VALUE, State.OPEN): 1},
        Verdict.FAIL,
    ),
    "a key could not be read and others are excepted": (
        ALL,
        {(Class.UNREADABLE, State.OPEN): 1, (Class.EXTRA, State.EXCEPTION): 5},
        Verdict.INCONCLUSIVE,
    ),
    "a difference settled": (ALL, {(Class.VALUE, State.SETTLED): 3}, Verdict.PASS),
    "an unreadable key settled": (ALL, {(Class.UNREADABLE, State.SETTLED): 3}, Verdict.PASS),
    "a rule excepts extra keys": (ALL, {(Class.EXTRA, State.EXCEPTION): 3}, Verdict.PASS_WITH_EXCEPTIONS),
    "keys were skipped": (ALL, {(Class.SKIPPED, State.EXCEPTION): 3}, Verdict.PASS_WITH_EXCEPTIONS),
    "an exception beside a difference": (
        ALL,
        {(Class.EXTRA, State.EXCEPTION): 3, (Class.MISSING, State.OPEN): 1},
        Verdict.FAIL,
    ),
    "nothing was compared but the target holds keys": (
        Coverage(0, 0, 9),
        {(Class.EXTRA, State.OPEN): 9},
        Verdict.FAIL,
    ),
    "nothing was compared and the target's keys are excepted": (
        Coverage(0, 0, 9),
        {(Class.EXTRA, State.EXCEPTION): 9},
        Verdict.INCONCLUSIVE,
    ),
    "a refused key is missing": (
        ALL,
        {(Class.REFUSED, State.OPEN): 1, (Class.MISSING, State.OPEN): 1},
        Verdict.FAIL,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_verdict(name: str) -> None:
    coverage, counts, verdict = TABLE[name]

    conclusion = conclude(coverage, counts)

    assert conclusion.verdict is verdict
    assert conclusion.reason


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_one_open_difference_of_any_class_is_a_fail_that_names_it(difference: Class) -> None:
    conclusion = conclude(ALL, {(difference, State.OPEN): 1})

    assert conclusion.verdict is Verdict.FAIL
    assert difference.value in conclusion.reason


counts = st.dictionaries(
    st.tuples(st.sampled_from(list(Class)), st.sampled_from(list(State))), st.integers(0, 3), max_size=10
)


@given(st.integers(0, 3), counts)
def test_a_pass_needs_compared_keys_and_nothing_open(compared: int, found: Counts) -> None:
    verdict = conclude(Coverage(compared, compared, compared), found).verdict

    differs = any(n for (c, s), n in found.items() if s is State.OPEN and c in DIFFERENCES)
    unread = found.get((Class.UNREADABLE, State.OPEN), 0) > 0
    excepted = any(n for (_, s), n in found.items() if s is State.EXCEPTION)
    assert (verdict is Verdict.FAIL) == differs
    if verdict in (Verdict.PASS, Verdict.PASS_WITH_EXCEPTIONS):
        assert compared
        assert not differs
        assert not unread
        assert (verdict is Verdict.PASS_WITH_EXCEPTIONS) == excepted


def test_a_run_limited_to_some_databases_claims_nothing_about_the_others() -> None:
    everywhere = conclude(Coverage(10, 10, 10), {})
    limited = conclude(Coverage(10, 10, 10, (0, 3)), {})

    assert limited.verdict is everywhere.verdict is Verdict.PASS
    assert "database 0, 3" in limited.reason
    assert "database" not in everywhere.reason


def test_rules_that_left_out_every_key_are_named_as_the_reason() -> None:
    left_out = conclude(Coverage(12, 0, 0, excluded={"include": 7, "type list": 5}), {})
    empty = conclude(Coverage(0, 0, 0), {})

    assert left_out.verdict is empty.verdict is Verdict.INCONCLUSIVE
    assert "rules left out 12 keys" in left_out.reason
    assert "holds none" not in left_out.reason
    assert "rules" not in empty.reason
