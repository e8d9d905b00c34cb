"""What a census samples, counts, and can say about what it has not seen; no server."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.census.classes import BEYOND, FARTHEST_MS, SIZES, TIMES_LEFT
from integrity.census.model import Census, Seen
from integrity.census.plan import Stretch, cursor_at, in_turn, quotas, stretches
from integrity.census.questions import Columns
from integrity.census.tally import Tally, Top
from integrity.census.wording import Course, method_of

databases = st.dictionaries(st.integers(0, 40), st.integers(1, 10**7), min_size=1, max_size=20)


def census(**seen: tuple[int, int, bool]) -> Census:
    parts = {number: Seen(*facts) for number, facts in enumerate(seen.values())}
    present = sum(part.present for part in parts.values())
    looked_at = sum(part.looked_at for part in parts.values())
    full = all(part.whole for part in parts.values())
    return Census(full, present, looked_at, 1.0, "", databases=parts)


# -- which keys --------------------------------------------------------------------------------------------------------


@given(databases, st.integers(100, 10**6))
def test_a_sample_is_no_larger_than_asked_for_and_leaves_no_database_out(
    present: dict[int, int], sample: int
) -> None:
    wanted = quotas(present, sample)

    assert wanted.keys() == present.keys()
    taken = {n: present[n] if quota is None else quota for n, quota in wanted.items()}
    assert all(0 < count <= present[n] for n, count in taken.items())
    assert sum(taken.values()) <= max(sample, len(present)) or sum(present.values()) <= sample


def test_databases_give_keys_in_proportion() -> None:
    wanted = quotas({0: 900_000, 1: 100_000}, 10_000)

    assert wanted[0] is not None
    assert wanted[1] is not None
    assert wanted[0] / wanted[1] == pytest.approx(9, rel=0.15)


def test_a_small_database_is_looked_at_whole() -> None:
    assert quotas({0: 10_000_000, 3: 40}, 50_000)[3] is None


def test_everything_is_looked_at_where_it_is_no_more_than_the_sample() -> None:
    assert quotas({0: 50, 1: 50}, 100) == {0: None, 1: None}


@given(st.integers(1, 10**6), st.integers(0, 1000))
def test_stretches_share_the_quota_and_begin_at_different_places(quota: int, seed: int) -> None:
    parts = stretches(0, quota, Random(seed), anywhere=True)

    assert sum(part.quota or 0 for part in parts) == quota
    assert len({part.cursor for part in parts}) == len(parts)
    assert all(part.wraps for part in parts)  # The last one may come to the end before it has enough.


def test_two_samples_begin_at_other_places() -> None:
    first, second = ({s.cursor for s in stretches(0, 5000, Random(n), anywhere=True)} for n in (1, 2))

    assert not first & second


@pytest.mark.parametrize("bits", [3, 10, 20])
def test_a_cursor_lies_at_its_share_of_the_way_through_a_table_of_any_size(bits: int) -> None:
    """The low bits of a cursor, reversed, are its place in the order of the walk."""
    for share in (0.0, 0.25, 0.5, 0.8):
        low = cursor_at(share) & ((1 << bits) - 1)
        place = int(format(low, f"0{bits}b")[::-1], 2)
        assert place == int(share * (1 << bits))


def test_a_stretch_that_wraps_goes_round_once() -> None:
    part = Stretch(0, 12, quota=100, wraps=True)
    course = []
    for _ in range(2):
        part.advance(0, 10)
        course.append((part.done, part.ended))

    assert course == [(False, False), (True, True)]


def test_a_stretch_ends_with_its_quota() -> None:
    part = Stretch(0, 12, quota=20, wraps=True)
    part.advance(5, 20)

    assert part.done
    assert not part.ended


def test_each_database_has_its_turn_before_one_has_a_second() -> None:
    parts = [Stretch(0, n) for n in range(3)] + [Stretch(1, 7)] + [Stretch(2, n) for n in range(2)]

    assert [part.database for part in in_turn(parts)] == [0, 1, 2, 0, 2, 0]


# -- classes -----------------------------------------------------------------------------------------------------------


def test_an_edge_belongs_to_its_class() -> None:
    assert SIZES.named(SIZES.count([0, 64, 65, 256])) == {"<=64 B": 2, "<=256 B": 2}
    assert SIZES.named(SIZES.count([1 << 30, (1 << 30) + 1])) == {"<=1 GiB": 1, ">1 GiB": 1}


def test_classes_in_between_are_shown_although_they_are_empty() -> None:
    assert list(TIMES_LEFT.named(Counter({0: 4, 3: 1}))) == ["none", "<=1 min", "<=1 h", "<=1 day"]
    assert TIMES_LEFT.named(Counter()) == {}


def test_the_last_class_is_what_dragonfly_does_not_keep() -> None:
    counts = TIMES_LEFT.count([FARTHEST_MS, FARTHEST_MS + 1])

    assert counts[BEYOND] == 1


# -- what was not seen -------------------------------------------------------------------------------------------------


def test_a_full_census_leaves_nothing_unseen() -> None:
    assert census(a=(1000, 1000, True), b=(5, 4, True)).unseen_at_most == 0


@given(st.integers(1, 9999))
def test_what_is_said_to_escape_does_so_with_five_percent_at_most(looked_at: int) -> None:
    told = census(a=(10_000, looked_at, False)).unseen_at_most

    share = looked_at / 10_000
    assert (1 - share) ** told <= 0.05 or told == 10_000
    assert told <= 1 or (1 - share) ** (told - 1) > 0.05


def test_the_database_that_was_looked_at_least_decides() -> None:
    both = census(a=(10_000, 5000, False), b=(10_000, 100, False), c=(7, 7, True))

    assert both.unseen_at_most == census(b=(10_000, 100, False)).unseen_at_most


def test_a_database_that_was_not_reached_may_hold_anything() -> None:
    assert census(a=(10_000, 5000, False), b=(10_000, 0, False)).unseen_at_most == 20_000


@pytest.mark.parametrize("course", [Course(), Course(refused=True), Course(out_of_time=True, seconds=5)])
def test_a_sample_says_what_may_have_escaped(course: Course) -> None:
    text = method_of(course, sampled=True, full=False, looked_at=500, present=9000, unseen=53)

    assert "500 of 9,000" in text
    assert "53" in text
    assert ("assess.sample_seconds" in text) == course.out_of_time
    assert ("random places" in text) != course.refused


# -- counting ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 50)), max_size=20), max_size=10))
def test_the_greatest_are_kept_and_none_twice(pages: list[list[tuple[int, int]]]) -> None:
    top = Top(5)
    sizes: dict[int, int] = {}
    for page in pages:
        # The same key always has the same number, as a key that SCAN brings twice.
        numbers = [sizes.setdefault(key, number) for key, number in page]
        keys = [b"%d" % key for key, _ in page]
        top.offer(0, numbers, keys, ["string"] * len(page))

    kept = top.first()
    assert [number for number, *_ in kept] == sorted((s for s in sizes.values() if s), reverse=True)[:5]
    assert len({key for _, _, key, _ in kept}) == len(kept)


def test_keys_that_are_gone_are_not_counted() -> None:
    tally = Tally(5)
    columns = Columns(
        [b"string", b"none", b"hash", b"hash"],
        [-1, -2, 50, -2],
        [60, 0, 300, 0],
        [b"raw", b"", b"listpack", b""],
        [],
    )
    tally.add(0, [b"a", b"b", b"c", b"d"], columns)

    assert tally.looked_at == {0: 2}
    assert tally.types == {"string": 1, "hash": 1}
    assert tally.encodings == {"string/raw": 1, "hash/listpack": 1}
    assert tally.expiries == {"none": 1, "<=1 min": 1}
    assert tally.sizes == {"<=64 B": 1, "<=256 B": 0, "<=1 KiB": 1}
    assert tally.bytes_by_type == {"hash": 300, "string": 60}


def test_keys_that_want_a_closer_look_are_handed_back() -> None:
    tally = Tally(5)
    columns = Columns(
        [b"stream", b"hash", b"hash"], [-1] * 3, [1] * 3, [b"stream", b"listpackex", b"listpack"], []
    )

    assert tally.add(0, [b"s", b"h", b"p"], columns) == ([b"s"], [b"h"])


def test_a_type_whose_name_is_no_text_is_named_all_the_same() -> None:
    tally = Tally(5)
    tally.add(0, [b"a"], Columns([b"odd\xff"], [-1], [], [], []))

    assert tally.types == {"odd\\xff": 1}
    assert tally.encodings == {}
    assert tally.sizes == {}
