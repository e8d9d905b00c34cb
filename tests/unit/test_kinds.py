"""Canonical digests: equal for equal values however a server tells them, different for the smallest damage."""

from __future__ import annotations

import json
import math
import struct
from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from integrity.kinds import KINDS, STREAM, Kind, MalformedReply
from integrity.kinds.hyperloglog import REGISTERS, registers
from integrity.replies import ErrorReply, Reply

STRING, LIST, SET, HASH, ZSET, JSON = (
    KINDS[name] for name in (b"string", b"list", b"set", b"hash", b"zset", b"ReJSON-RL")
)
MANY = settings(max_examples=300, deadline=None)


# -- values as servers tell them ---------------------------------------------------------------------------------------


def group(
    name: bytes = b"workers",
    last: bytes = b"2-1",
    pending: list[Reply] | None = None,
    consumers: tuple[bytes, ...] = (b"ann", b"bob"),
    *,
    seen: int = 1_700_000_000_000,
    entries_read: int | None = 2,
    pending_name: bytes = b"pel",
) -> list[Reply]:
    if pending is None:
        pending = [[b"1-1", b"ann", seen, 1], [b"2-1", b"bob", seen + 1, 3]]
    people: list[Reply] = [
        [b"name", who, b"seen-time", seen, b"pel-count", 0, b"pel", []] for who in consumers
    ]
    head: list[Reply] = [b"name", name, b"last-delivered-id", last, b"entries-read", entries_read, b"lag", 1]
    return [*head, b"pel-count", len(pending), pending_name, pending, b"consumers", people]


def stream(
    entries: list[Reply] | None = None,
    last: bytes = b"3-1",
    groups: list[Reply] | None = None,
    *,
    counters: bool = True,
    added: int = 3,
    deleted: bytes = b"0-0",
) -> list[Reply]:
    if entries is None:
        entries = [[b"1-1", [b"f", b"v"]], [b"2-1", [b"f", b"v", b"g", b"w"]], [b"3-1", [b"f", b"x"]]]
    kept: list[Reply] = [b"max-deleted-entry-id", deleted, b"entries-added", added] if counters else []
    found: list[Reply] = [group()] if groups is None else groups
    head: list[Reply] = [b"length", len(entries), b"radix-tree-keys", 1, b"last-generated-id", last, *kept]
    return [*head, b"entries", entries, b"groups", found]


@cache
def dense(values: bytes, cardinality: bytes = bytes(8)) -> bytes:
    """A dense HyperLogLog with these registers."""
    number = sum(value << 6 * index for index, value in enumerate(values) if value)
    return b"HYLL\0\0\0\0" + cardinality + number.to_bytes(12_288, "little")


@cache
def sparse(values: bytes, cardinality: bytes = bytes(8)) -> bytes:
    """A sparse HyperLogLog with these registers (each at most 32)."""
    out, at = bytearray(b"HYLL\1\0\0\0" + cardinality), 0
    while at < len(values):
        value, run = values[at], 1
        limit = 16_384 if value == 0 else 4
        while at + run < len(values) and values[at + run] == value and run < limit:
            run += 1
        if value:
            out.append(0x80 | value - 1 << 2 | run - 1)
        elif run <= 64:
            out.append(run - 1)
        else:
            out += bytes([0x40 | run - 1 >> 8, run - 1 & 255])
        at += run
    return bytes(out)


def some_registers(seed: int = 1) -> bytearray:
    values = bytearray(REGISTERS)
    for index in range(40):
        values[(index * 977 + seed) % REGISTERS] = index % 31 + 1
    return values


parts = st.binary(max_size=20)
numbers = st.floats(allow_nan=False)


def flat_pairs(table: dict[bytes, bytes]) -> Reply:
    return [item for pair in table.items() for item in pair]


def scored(table: dict[bytes, float]) -> Reply:
    return [item for member, score in table.items() for item in (member, repr(score).encode())]


identifiers = st.tuples(st.integers(0, 10**13), st.integers(0, 99)).map(lambda pair: b"%d-%d" % pair)
entries: st.SearchStrategy[list[Reply]] = st.lists(
    st.tuples(identifiers, st.lists(parts, min_size=2, max_size=4)).map(lambda e: [e[0], list(e[1])]),
    max_size=4,
)
pending_lists = st.lists(
    st.tuples(identifiers, parts, st.integers(0, 2**41), st.integers(0, 1000)).map(list), max_size=3
)
groups = st.lists(
    st.builds(
        lambda name, last, pending, consumers: group(name, last, pending, tuple(consumers)),
        parts,
        identifiers,
        pending_lists,
        st.lists(parts, max_size=3, unique=True),
    ),
    max_size=3,
    unique_by=lambda g: repr(g[1]),
)
documents = st.dictionaries(st.text("abc", max_size=3), st.integers() | st.text(max_size=5), max_size=4)
VALUES: dict[str, tuple[Kind, st.SearchStrategy[Reply]]] = {
    "string": (STRING, parts),
    "hyperloglog": (STRING, st.integers(0, 7).map(lambda n: dense(bytes(some_registers(n))))),
    "list": (LIST, st.lists(parts, max_size=8)),
    "set": (SET, st.lists(parts, max_size=8, unique=True)),
    "hash": (HASH, st.dictionaries(parts, parts, max_size=6).map(flat_pairs)),
    "zset": (ZSET, st.dictionaries(parts, numbers, max_size=6).map(scored)),
    "stream": (STREAM, st.builds(stream, entries, identifiers, groups)),
    "json": (JSON, documents.map(lambda document: json.dumps(document).encode())),
}


# -- every kind --------------------------------------------------------------------------------------------------------


def test_every_kind_is_found_by_the_name_that_type_answers() -> None:
    assert {name: kind.name.encode() for name, kind in KINDS.items()} == {name: name for name in KINDS}
    assert set(KINDS) == {b"string", b"list", b"set", b"hash", b"zset", b"stream", b"ReJSON-RL"}


@pytest.mark.parametrize("name", VALUES)
def test_digesting_many_is_digesting_each(name: str) -> None:
    kind, values = VALUES[name]

    @given(st.lists(values, max_size=6))
    @settings(max_examples=60, deadline=None)
    def check(replies: list[Reply]) -> None:
        digests = kind.digests(replies)
        assert digests == [kind.digest(reply) for reply in replies]
        assert {len(digest) for digest in digests} <= {16}

    check()


@given(parts)
@example(b"")
@settings(max_examples=100, deadline=None)
def test_the_type_is_part_of_the_digest(data: bytes) -> None:
    digests = [
        STRING.digest(data),
        LIST.digest([data]),
        SET.digest([data]),
        HASH.digest([data, data]),
        ZSET.digest([data, b"0"]),
        STREAM.digest(stream([[b"1-1", [data, data]]], b"1-1", [])),
    ]

    assert len(set(digests)) == len(digests)


def test_empty_values_of_different_types_differ() -> None:
    empty = [kind.digest([]) for kind in (LIST, SET, HASH, ZSET)]

    assert len({STRING.digest(b""), STREAM.digest(stream([], b"0-0", [])), *empty}) == 6


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.name))
@pytest.mark.parametrize(
    "reply",
    [None, 7, b"", [7], [None], [[b"a"]], [b"a", None], [b"a", b"b", b"c"], ErrorReply("WRONGTYPE")],
    ids=repr,
)
def test_a_reply_of_another_shape_is_malformed(kind: Kind, reply: Reply) -> None:
    fits = (kind is STRING and isinstance(reply, bytes)) or (
        kind in (LIST, SET) and reply == [b"a", b"b", b"c"]
    )
    if fits:
        return
    with pytest.raises(MalformedReply):
        kind.digest(reply)
    with pytest.raises(MalformedReply):
        kind.digests([reply])


# -- one bit -----------------------------------------------------------------------------------------------------------


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def byte_places(value: Reply, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Where in nested lists byte strings stand."""
    if isinstance(value, list):
        return [place for i, item in enumerate(value) for place in byte_places(item, (*path, i))]
    return [path] if isinstance(value, bytes) and value else []


def mutated(value: Reply, path: tuple[int, ...], bit: int) -> Reply:
    if path:
        assert isinstance(value, list)
        return [mutated(item, path[1:], bit) if i == path[0] else item for i, item in enumerate(value)]
    assert isinstance(value, bytes)
    return flip(value, bit % (8 * len(value)))


@pytest.mark.parametrize("name", ["string", "list", "set", "hash"])
def test_one_flipped_bit_anywhere_is_seen(name: str) -> None:
    kind, values = VALUES[name]

    @given(values, st.data())
    @MANY
    def check(value: Reply, data: st.DataObject) -> None:
        places = byte_places(value)
        assume(places)
        changed = mutated(value, data.draw(st.sampled_from(places)), data.draw(st.integers(0, 159)))
        assert kind.digest(changed) != kind.digest(value)

    check()


@given(st.dictionaries(parts, numbers, min_size=1, max_size=6), st.data())
@MANY
def test_one_flipped_bit_of_a_member_or_a_score_is_seen(
    table: dict[bytes, float], data: st.DataObject
) -> None:
    member = data.draw(st.sampled_from(sorted(table)))
    changed = dict(table)
    if member and data.draw(st.booleans()):
        other = flip(member, data.draw(st.integers(0, 8 * len(member) - 1)))
        assume(other not in table)
        changed[other] = changed.pop(member)
    else:
        score = struct.unpack("<d", flip(struct.pack("<d", table[member]), data.draw(st.integers(0, 63))))[0]
        assume(not math.isnan(score) and score != table[member])
        changed[member] = score

    assert ZSET.digest(scored(changed)) != ZSET.digest(scored(table))


@given(entries, identifiers, groups, st.data())
@MANY
def test_one_flipped_bit_of_a_streams_entry_or_last_id_is_seen(
    items: list[Reply], last: bytes, found: list[Reply], data: st.DataObject
) -> None:
    places = byte_places([last, items])
    value = mutated([last, items], data.draw(st.sampled_from(places)), data.draw(st.integers(0, 159)))
    assert isinstance(value, list)
    new_last, new_items = value
    assert isinstance(new_last, bytes)
    assert isinstance(new_items, list)

    assert STREAM.digest(stream(new_items, new_last, found)) != STREAM.digest(stream(items, last, found))


@given(parts, identifiers, pending_lists, st.lists(parts, max_size=3, unique=True), st.data())
@MANY
def test_one_flipped_bit_of_a_group_is_seen(
    name: bytes, last: bytes, pending: list[Reply], consumers: list[bytes], data: st.DataObject
) -> None:
    facts: list[Reply] = [name, last, pending, [*consumers]]
    places = byte_places(facts)
    value = mutated(facts, data.draw(st.sampled_from(places)), data.draw(st.integers(0, 159)))
    assert isinstance(value, list)
    changed = group(value[0], value[1], value[2], tuple(value[3]))  # type: ignore[arg-type]

    before, after = group(name, last, pending, tuple(consumers)), changed

    assert STREAM.digest(stream(groups=[after])) != STREAM.digest(stream(groups=[before]))


@given(st.integers(0, 7), st.integers(0, 12_303), st.integers(0, 7))
@MANY
def test_one_flipped_bit_of_a_dense_hyperloglog_is_seen_unless_it_is_in_the_cache(
    seed: int, at: int, bit: int
) -> None:
    value = dense(bytes(some_registers(seed)))
    changed = flip(value, 8 * at + bit)

    assert (STRING.digest(changed) != STRING.digest(value)) == (not 8 <= at < 16)


@given(st.integers(0, 7), st.data())
@MANY
def test_one_flipped_bit_of_a_sparse_hyperloglog_is_seen_unless_it_is_in_the_cache(
    seed: int, data: st.DataObject
) -> None:
    value = sparse(bytes(some_registers(seed)))
    at = data.draw(st.integers(0, len(value) - 1))
    changed = flip(value, 8 * at + data.draw(st.integers(0, 7)))

    assert (STRING.digest(changed) != STRING.digest(value)) == (not 8 <= at < 16)


# -- order and framing -------------------------------------------------------------------------------------------------


@given(st.lists(parts, max_size=8, unique=True), st.data())
@settings(max_examples=100, deadline=None)
def test_the_order_of_members_fields_and_scores_does_not_count(
    items: list[bytes], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(items))

    assert SET.digest([*shuffled]) == SET.digest([*items])
    assert HASH.digest(flat_pairs({m: m + b"!" for m in shuffled})) == HASH.digest(
        flat_pairs({m: m + b"!" for m in items})
    )
    assert ZSET.digest(scored({m: float(len(m)) for m in shuffled})) == ZSET.digest(
        scored({m: float(len(m)) for m in items})
    )


def test_the_order_of_list_elements_counts() -> None:
    assert LIST.digest([b"a", b"b", b"c"]) != LIST.digest([b"b", b"a", b"c"])


def test_where_one_part_ends_and_the_next_begins_counts() -> None:
    for kind in (LIST, SET, HASH):
        assert kind.digest([b"ab", b"c"]) != kind.digest([b"a", b"bc"])
    for kind in (LIST, HASH):
        assert kind.digest([b"", b"abc"]) != kind.digest([b"abc", b""])
    assert STREAM.digest(stream([[b"1-1", [b"ab", b"c"]]])) != STREAM.digest(
        stream([[b"1-1", [b"a", b"bc"]]])
    )
    one_entry: list[Reply] = [[b"1-1", [b"a", b"b", b"c", b"d"]]]
    two_entries: list[Reply] = [[b"1-1", [b"a", b"b"]], [b"c", [b"d"]]]
    assert STREAM.digest(stream(one_entry)) != STREAM.digest(stream(two_entries))
    assert HASH.digest([b"1", b"1:"]) != HASH.digest([b"11", b":"])


def test_a_field_and_its_value_are_not_exchangeable() -> None:
    assert HASH.digest([b"a", b"b"]) != HASH.digest([b"b", b"a"])
    assert HASH.digest([b"a", b"1", b"b", b"2"]) != HASH.digest([b"a", b"2", b"b", b"1"])


def test_a_repeated_member_is_not_the_same_as_one() -> None:
    assert SET.digest([b"a"]) != SET.digest([b"a", b"a"])
    assert LIST.digest([b"a"]) != LIST.digest([b"a", b"a"])


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"-0.0", b"0"),
        (b"-0", b"0.0"),
        (b"1e3", b"1000"),
        (b"1E+3", b"1000.0"),
        (b"3", b"3.0000000000000000"),
        (b"0.1", b"0.1000000000000000055511151231257827"),
        (b"inf", b"Infinity"),
        (b"-inf", b"-INF"),
        (b"5e-324", b"4.9406564584124654e-324"),
    ],
)
def test_the_text_of_a_score_does_not_count(one: bytes, other: bytes) -> None:
    assert ZSET.digest([b"m", one]) == ZSET.digest([b"m", other])


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.0)
@example(1.0)
@settings(max_examples=200, deadline=None)
def test_the_smallest_change_of_a_score_is_seen(score: float) -> None:
    for direction in (math.inf, -math.inf):
        nudged = math.nextafter(score, direction)
        assert ZSET.digest(scored({b"m": nudged})) != ZSET.digest(scored({b"m": score}))


def test_two_members_that_swap_their_scores_differ() -> None:
    assert ZSET.digest([b"a", b"1", b"b", b"2"]) != ZSET.digest([b"a", b"2", b"b", b"1"])


# -- HyperLogLogs ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_sparse_and_dense_forms_of_the_same_registers_are_equal(seed: int) -> None:
    values = bytes(some_registers(seed))

    assert registers(dense(values)) == registers(sparse(values)) == values
    assert STRING.digest(dense(values)) == STRING.digest(sparse(values))


def test_the_cached_cardinality_does_not_count() -> None:
    values = bytes(some_registers())
    forms = [
        form(values, cardinality)
        for form in (dense, sparse)
        for cardinality in (bytes(8), b"\1" * 7 + b"\x80")
    ]

    assert len({STRING.digest(form) for form in forms}) == 1
    assert len(set(STRING.digests([*forms]))) == 1


def test_one_register_counts() -> None:
    values, other = some_registers(), some_registers()
    other[16_383] += 1

    assert STRING.digest(dense(bytes(values))) != STRING.digest(dense(bytes(other)))


def test_an_empty_hyperloglog_is_equal_in_both_forms() -> None:
    assert STRING.digest(sparse(bytes(REGISTERS))) == STRING.digest(dense(bytes(REGISTERS)))


MALFORMED = {
    "only the magic": b"HYLL",
    "a short header": b"HYLL\0\0\0\0" + bytes(7),
    "an unknown encoding": b"HYLL\2\0\0\0" + bytes(8 + 12_288),
    "unused bytes set": b"HYLL\0\1\0\0" + bytes(8 + 12_288),
    "dense and too short": dense(bytes(REGISTERS))[:-1],
    "dense and too long": dense(bytes(REGISTERS)) + b"\0",
    "sparse and too short": sparse(bytes(REGISTERS))[:-1],
    "sparse with a register too many": sparse(bytes(REGISTERS)) + b"\0",
    "text": b"HYLL is how this text begins",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_hyperloglog_is_compared_by_its_bytes(name: str) -> None:
    value = MALFORMED[name]

    assert registers(value) is None
    for at in (8, len(value) - 1):
        if at < len(value):
            assert STRING.digest(flip(value, 8 * at)) != STRING.digest(value)


# -- streams -----------------------------------------------------------------------------------------------------------


def test_idle_times_and_what_servers_estimate_do_not_count() -> None:
    long_ago = group(seen=1, pending=[[b"1-1", b"ann", 5, 1], [b"2-1", b"bob", 6, 3]], entries_read=None)

    assert STREAM.digest(stream(groups=[long_ago])) == STREAM.digest(stream())


def test_the_name_of_the_pending_list_does_not_count() -> None:
    assert STREAM.digest(stream(groups=[group(pending_name=b"pending")])) == STREAM.digest(stream())


def test_the_order_of_groups_and_consumers_does_not_count() -> None:
    one, two = group(b"a"), group(b"b", consumers=(b"ann", b"bob"))
    other = group(b"b", consumers=(b"bob", b"ann"))

    assert STREAM.digest(stream(groups=[one, two])) == STREAM.digest(stream(groups=[other, one]))


def test_counters_are_told_apart_from_the_digest() -> None:
    with_counters, without = stream(added=9, deleted=b"2-0"), stream(counters=False)

    assert STREAM.digest(with_counters) == STREAM.digest(without)
    assert STREAM.counters(with_counters) == (9, b"2-0")
    assert STREAM.counters(without) is None


HARM: dict[str, list[Reply]] = {
    "a pending entry gone": stream(groups=[group(pending=[[b"1-1", b"ann", 1, 1]])]),
    "a pending entry more": stream(
        groups=[group(pending=[[b"1-1", b"ann", 1, 1], [b"2-1", b"bob", 1, 3], [b"3-1", b"bob", 1, 1]])]
    ),
    "a delivery more": stream(groups=[group(pending=[[b"1-1", b"ann", 1, 2], [b"2-1", b"bob", 1, 3]])]),
    "another owner": stream(groups=[group(pending=[[b"1-1", b"bob", 1, 1], [b"2-1", b"bob", 1, 3]])]),
    "a consumer gone": stream(groups=[group(consumers=(b"ann",))]),
    "a consumer more": stream(groups=[group(consumers=(b"ann", b"bob", b"eve"))]),
    "a group's last delivered id": stream(groups=[group(last=b"3-1")]),
    "a group renamed": stream(groups=[group(b"worker")]),
    "a group gone": stream(groups=[]),
    "a group more": stream(groups=[group(), group(b"z")]),
    "the last id": stream(last=b"4-0"),
    "an entry gone": stream([[b"1-1", [b"f", b"v"]], [b"2-1", [b"f", b"v", b"g", b"w"]]]),
    "entries swapped": stream(
        [[b"2-1", [b"f", b"v", b"g", b"w"]], [b"1-1", [b"f", b"v"]], [b"3-1", [b"f", b"x"]]]
    ),
    "an id raised": stream(
        [[b"1-2", [b"f", b"v"]], [b"2-1", [b"f", b"v", b"g", b"w"]], [b"3-1", [b"f", b"x"]]]
    ),
    "fields swapped": stream(
        [[b"1-1", [b"f", b"v"]], [b"2-1", [b"g", b"w", b"f", b"v"]], [b"3-1", [b"f", b"x"]]]
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_harm_to_a_stream_is_seen(name: str) -> None:
    assert STREAM.digest(HARM[name]) != STREAM.digest(stream())


def test_a_consumer_is_not_taken_for_a_pending_entry_or_the_next_group() -> None:
    one: list[Reply] = [group(b"a", b"0-0", [], (b"b", b"0-0", b"0", b"0"))]
    two: list[Reply] = [group(b"a", b"0-0", [], ()), group(b"b", b"0-0", [], ())]

    assert STREAM.digest(stream(groups=one)) != STREAM.digest(stream(groups=two))


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_the_order_of_names_and_white_space_in_a_document_do_not_count() -> None:
    assert JSON.digest(b'{"a": 1, "b": [1, 2]}') == JSON.digest(b'{"b":[1,2],"a":1}')


@pytest.mark.parametrize("other", [b'{"a":2}', b'{"b":1}', b'{"a":"1"}', b'{"a":[1]}', b"{}", b'{"a":null}'])
def test_another_document_is_seen(other: bytes) -> None:
    assert JSON.digest(b'{"a":1}') != JSON.digest(other)


# -- differences in words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        (STRING, b"secretly-one", b"secretly-two"),
        (LIST, [b"secretly-one"], [b"secretly-two", b"secretly-one"]),
        (SET, [b"secretly-one"], [b"secretly-two"]),
        (HASH, [b"f", b"secretly-one"], [b"f", b"secretly-two"]),
        (ZSET, [b"secretly-m", b"1"], [b"secretly-m", b"2"]),
        (STREAM, stream([[b"1-1", [b"f", b"secretly-one"]]]), stream([[b"1-1", [b"f", b"secretly-two"]]])),
        (JSON, b'{"a":"secretly-one"}', b'{"a":"secretly-two"}'),
    ],
    ids=["string", "list", "set", "hash", "zset", "stream", "json"],
)
def test_a_difference_in_words_never_quotes_the_value(kind: Kind, ours: Reply, theirs: Reply) -> None:
    text = kind.difference(ours, theirs)

    assert text
    assert "secretly" not in text
