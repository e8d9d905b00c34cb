"""Which arguments name keys, where the server's own table does not say it."""

from __future__ import annotations

import pytest

from integrity.sync.key_positions import Effect, KeyTable, Picked, at_places

TABLE = KeyTable({b"SET": Effect.FIRST, b"GET": Effect.NOTHING, b"PFCOUNT": Effect.NOTHING})


def keys(text: str) -> list[bytes]:
    command, *arguments = text.encode().split()
    rule = TABLE[command]
    if rule is Effect.FIRST:
        return arguments[:1]
    assert isinstance(rule, Picked)
    return list(rule.pick(arguments[: rule.most]))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("BITOP AND dest a b", "dest"),
        ("XGROUP CREATE stream group $", "stream"),
        ("ZUNIONSTORE dest 2 a b WEIGHTS 1 2", "dest"),
        ("CMS.MERGE dest 2 a b", "dest"),
        ("LMPOP 2 a b LEFT COUNT 3", "a b"),
        ("zmpop 1 a MIN", "a"),
        ("BLMPOP 0 2 a b LEFT", "a b"),
        ("EVAL return 0", ""),
        ("EVALSHA abc 2 a b c d", "a b"),
        ("FCALL f 1 a b", "a"),
        ("EVAL return 0 a b", ""),
        ("FCALL f +1 a b", "a b"),
        ("SORT a BY w_* GET # STORE dest", "dest"),
        ("SORT a", ""),
        ("SORT a store dest", "dest"),
        ("GEORADIUS a 1 2 3 km STORE d1 STOREDIST d2", "d1 d2"),
        ("XREADGROUP GROUP g c STREAMS a b > 0-1", "a b"),
        ("xreadgroup group STREAMS STREAMS count 2 block 0 noack streams a >", "a"),
        ("XREADGROUP COUNT 1 GROUP g c STREAMS a b c > > >", "a b c"),
        ("MIGRATE host 1 a 0 1000 REPLACE", "a"),
        ("PFCOUNT a b", "a b"),
    ],
)
def test_the_keys_that_may_change_are_picked(call: str, expected: str) -> None:
    assert keys(call) == expected.encode().split()


def test_the_keys_that_migrate_names_at_its_end_are_picked() -> None:
    rule = TABLE[b"MIGRATE"]
    assert isinstance(rule, Picked)
    assert list(rule.pick([b"host", b"1", b"", b"0", b"9", b"AUTH", b"p", b"keys", b"a", b"b"])) == [
        b"a",
        b"b",
    ]


def test_all_arguments_are_named_where_an_option_of_xreadgroup_is_unknown() -> None:
    assert {b"a", b"b"} <= set(keys("XREADGROUP GROUP g c NEWOPTION 1 STREAMS a b > >"))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ((1, -1, 1), "a b c d"),
        ((1, -2, 1), "a b c"),
        ((1, -1, 2), "a c"),
        ((1, 2, 1), "a b"),
        ((1, -1, 3), "a d"),
    ],
)
def test_places_are_counted_as_the_servers_count_them(places: tuple[int, int, int], expected: str) -> None:
    rule = at_places(*places)
    assert isinstance(rule, Picked)
    assert list(rule.pick(b"a b c d".split())) == expected.encode().split()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (b"set", Effect.FIRST),
        (b"Get", Effect.NOTHING),
        (b"NEWCOMMAND", Effect.UNKNOWN),
        (b"flushall", Effect.EVERYTHING),
        (b"SWAPDB", Effect.EVERYTHING),
        (b"blmove", Effect.WAITS_TO_MOVE),
        (b"function", Effect.NOTHING),
    ],
)
def test_a_name_is_found_however_it_is_spelt(name: bytes, rule: Effect) -> None:
    assert TABLE[name] is rule
    assert TABLE[name] is rule, "and the second time, from memory"
