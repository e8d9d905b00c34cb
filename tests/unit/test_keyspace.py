"""Cutting a SCAN page into parts of bounded size, without losing a key or moving a checkpoint too early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from integrity.keyspace import Page, scan_command, split_page
from integrity.wire import argument, pack

sizes_of_keys = st.lists(st.integers(0, 120), max_size=30)


def page(sizes: list[int], *, cursor: int = 7, with_types: bool = True) -> Page:
    keys = [b"k%d" % number for number in range(len(sizes))]
    types = [b"list" if number % 2 else b"string" for number in range(len(sizes))] if with_types else []
    return Page(keys, [argument(key) for key in keys], types, sizes, sum(sizes), cursor, True, cursor == 0)


@given(sizes_of_keys, st.integers(1, 300), st.booleans())
def test_the_parts_are_the_page(sizes: list[int], limit: int, with_types: bool) -> None:
    whole = page(sizes, with_types=with_types)

    parts = split_page(whole, limit)

    assert [key for part in parts for key in part.keys] == whole.keys
    assert [name for part in parts for name in part.arguments] == whole.arguments
    assert [kind for part in parts for kind in part.types] == whole.types
    assert [size for part in parts for size in part.sizes] == whole.sizes
    assert sum(part.size for part in parts) == whole.size


@given(sizes_of_keys, st.integers(1, 300))
def test_a_part_is_within_the_limit_or_one_key(sizes: list[int], limit: int) -> None:
    for part in split_page(page(sizes), limit):
        assert part.size == sum(part.sizes)
        assert part.size <= limit or len(part.keys) == 1


@given(sizes_of_keys, st.integers(1, 300), st.sampled_from([0, 7]))
def test_only_the_last_part_completes_the_page(sizes: list[int], limit: int, cursor: int) -> None:
    parts = split_page(page(sizes, cursor=cursor), limit)

    assert [part.completes for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [cursor == 0]
    assert {part.cursor for part in parts} == {cursor}


@given(sizes_of_keys, st.integers(1, 300))
def test_no_part_is_empty_unless_the_page_is(sizes: list[int], limit: int) -> None:
    parts = split_page(page(sizes), limit)

    assert parts
    assert all(part.keys for part in parts) or not sizes


def test_a_page_that_fits_is_not_cut() -> None:
    whole = page([10, 20, 30])

    assert list(split_page(whole, 60)) == [whole]
    assert [part.keys for part in split_page(whole, 59)] == [whole.keys[:2], whole.keys[2:]]


def test_a_page_of_unknown_sizes_is_not_cut() -> None:
    assert len(split_page(page([0] * 1000), 1)) == 1


@given(st.integers(0, 2**64 - 1), st.integers(1, 1000))
def test_a_scan_command_is_packed_as_any_other(cursor: int, count: int) -> None:
    assert scan_command(cursor, count) == pack(b"SCAN", b"%d" % cursor, b"COUNT", b"%d" % count)
