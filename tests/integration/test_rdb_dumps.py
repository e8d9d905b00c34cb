"""Bodies that servers make of values made up at random: decoded as the server answers them, whole and in pieces.

DUMP's payload is the type and the body of an RDB file.  On the servers on PATH, and on those that
GREENFLY_TEST_MORE_SERVERS names.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrity.kinds import KINDS
from integrity.kinds.base import elements_of
from integrity.kinds.pieces import PieceSize
from integrity.kinds.stream_reply import reply_table
from integrity.rdb.body import Body
from integrity.rdb.pieces import pieces_of
from integrity.rdb.values import kind_of, value_of
from integrity.rdb.walk import walk_for
from integrity.replies import Reply
from integrity.transfer.payload import FOOTER_BYTES, rdb_version
from tests.fencing import each_program
from tests.raw import Argument, Raw, as_bytes, as_entries

FEW = settings(
    max_examples=40,
    deadline=None,
    # One server for all examples; each begins by deleting its key.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZES = [12, 13, 63, 64, 127, 128, 4095, 4096, 16_383, 20_000]
TEXTS = st.one_of(
    st.binary(max_size=12),
    st.integers(-(1 << 63), (1 << 63) - 1).map(b"%d".__mod__),
    st.integers(-70_000, 70_000).map(b"%d".__mod__),
    # Lengths on both sides of where an encoding ends, and something to compress.
    st.builds(
        lambda text, size: (text * size)[:size], st.binary(min_size=1, max_size=5), st.sampled_from(SIZES)
    ),
)
SCORES = st.one_of(st.integers(-100, 100), st.floats(allow_nan=False))


@pytest.fixture(scope="module", params=each_program())
def server(request: pytest.FixtureRequest) -> Iterator[Raw]:
    """A server of this module."""
    with request.param.start() as running, Raw(running.url) as raw:
        yield raw


def _made(server: Raw, *commands: tuple[Argument, ...]) -> Reply:
    """The value that the body stands for; all ways of reading it agree."""
    server(b"DEL", b"k")
    for command in commands:
        server(*command)
    payload = as_bytes(server(b"DUMP", b"k"))
    rdb_type, body, version = payload[0], payload[1:-FOOTER_BYTES], rdb_version(payload)
    walk = walk_for(rdb_type, version)
    walked = Body((), body + b"\xff" * 20)
    walk(walked)
    assert walked.at == len(body)
    value = value_of(rdb_type, body, version)
    kind = KINDS[kind_of(rdb_type, body).encode()]
    for limit, step in ((PieceSize(100, 3), 11), (PieceSize(1 << 20, 4096), 1 << 20)):
        hasher = kind.hasher()
        chunks = (body[at : at + step] for at in range(0, len(body), step))
        for piece in pieces_of(rdb_type, Body(chunks), limit, version):
            hasher.add(piece)
        assert hasher.digest() == kind.digest(value)
    return value


@FEW
@given(text=TEXTS)
def test_strings(server: Raw, text: bytes) -> None:
    assert _made(server, (b"SET", b"k", text)) == text


@FEW
@given(elements=st.lists(TEXTS, min_size=1, max_size=30))
def test_lists(server: Raw, elements: list[bytes]) -> None:
    assert _made(server, (b"RPUSH", b"k", *elements)) == elements


@pytest.mark.parametrize("size", [127, 16_383, 2_097_151])
def test_elements_around_the_sizes_that_take_another_byte(server: Raw, size: int) -> None:
    for shorter in range(8):
        element = b"x" * (size - shorter)
        assert _made(server, (b"RPUSH", b"k", element, b"next")) == [element, b"next"]


@FEW
@given(
    members=st.sets(st.one_of(TEXTS, st.integers(-(1 << 63), (1 << 63) - 1).map(b"%d".__mod__)), min_size=1)
)
def test_sets(server: Raw, members: set[bytes]) -> None:
    found = elements_of(_made(server, (b"SADD", b"k", *members)))
    assert sorted(found) == sorted(members)


@FEW
@given(members=st.sets(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1))
def test_sets_of_numbers(server: Raw, members: set[int]) -> None:
    found = elements_of(_made(server, (b"SADD", b"k", *members)))
    assert sorted(map(int, found)) == sorted(members)


@FEW
@given(table=st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=20))
def test_hashes(server: Raw, table: dict[bytes, bytes]) -> None:
    flat = elements_of(_made(server, (b"HSET", b"k", *(item for pair in table.items() for item in pair))))
    assert dict(zip(flat[::2], flat[1::2], strict=True)) == table
    assert len(flat) == 2 * len(table)


@FEW
@given(scores=st.dictionaries(TEXTS, SCORES, min_size=1, max_size=20))
def test_sorted_sets(server: Raw, scores: dict[bytes, float]) -> None:
    added = (item for member, score in scores.items() for item in (repr(score), member))
    flat = elements_of(_made(server, (b"ZADD", b"k", *added)))
    assert dict(zip(flat[::2], map(float, flat[1::2]), strict=True)) == scores
    assert len(flat) == 2 * len(scores)


IDS = st.tuples(st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1)), st.integers(0, (1 << 64) - 1))
FIELDS = st.lists(st.tuples(st.sampled_from([b"a", b"b"]) | TEXTS, TEXTS), min_size=1, max_size=4)


@FEW
@given(
    entries=st.dictionaries(IDS.filter(any), FIELDS, min_size=1, max_size=20),
    deleted=st.sets(st.integers(0, 19)),
)
def test_streams(
    server: Raw, entries: dict[tuple[int, int], list[tuple[bytes, bytes]]], deleted: set[int]
) -> None:
    added: list[tuple[Argument, ...]] = [
        (b"XADD", b"k", b"%d-%d" % identifier, *(item for pair in fields for item in pair))
        for identifier, fields in sorted(entries.items())
    ]
    removed = [added[number][2] for number in sorted(deleted) if number < len(added)]
    commands = [*added, (b"XDEL", b"k", *removed)] if removed else added
    table = reply_table(_made(server, *commands))
    told = as_entries(server(b"XRANGE", b"k", b"-", b"+"))
    assert [[identifier, fields] for identifier, fields in told] == table[b"entries"]
    assert table[b"last-generated-id"] == added[-1][2]
