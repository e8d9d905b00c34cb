"""Values in pieces: the same digest as read whole, the same value when written, and a change meanwhile is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from time import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis

from integrity.endpoint import Endpoint
from integrity.kinds import HASH, KINDS, STREAM, Kind
from integrity.kinds.hyperloglog import LONGEST
from integrity.kinds.pieces import Hasher, Piece, PieceSize, ValueChanged
from integrity.kinds.stream import StreamHasher
from integrity.native.state import unknown_commands
from integrity.wire import Connection, argument
from tests import oracle
from tests.engine import endpoint
from tests.raw import Raw, as_int, as_list
from tests.servers import Store
from tests.values import DRAGONFLY_MAKERS, MAKERS, Fields, Text, rebuild, send

# No CR LF: Dragonfly 1.40 puts a key into some errors as it is, and its reply falls apart.
KEY = b"in pieces:\0\xff"
KIND_OF = {"hyperloglog": "string", "hash with expiring fields": "hash", "json": "ReJSON-RL"}
SEEDS = st.integers(0, 2**64 - 1)
LIMITS = st.builds(PieceSize, bytes=st.integers(1, 300), elements=st.integers(1, 9))
SOME = settings(max_examples=40, deadline=None)

MADE_ON = [
    *(pytest.param("green_redis", name, id=f"redis-{name}") for name in MAKERS),
    *(
        pytest.param("green_dragonfly", name, id=f"dragonfly-{name}", marks=pytest.mark.dragonfly)
        for name in DRAGONFLY_MAKERS
    ),
]


def kind_of(name: str) -> Kind:
    return KINDS[KIND_OF.get(name, name).encode()]


def connected(store: Store) -> Connection:
    server: Endpoint = endpoint("source", store.url)
    return server.connect("test")


def whole(connection: Connection, kind: Kind, key: bytes) -> bytes:
    """The digest of one reply."""
    reply = connection.exchange([kind.prefix + argument(key) + kind.suffix])[0]
    return kind.digest(reply)


def hashed(connection: Connection, kind: Kind, limit: PieceSize, size: int = 0) -> tuple[Hasher, int]:
    """What the pieces come to, and how many there were."""
    hasher, count = kind.hasher(), 0
    for piece in kind.pieces(connection, KEY, size, limit):
        hasher.add(piece)
        count += 1
    return hasher, count


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "name"), MADE_ON)
def test_the_digest_of_the_pieces_is_the_digest_of_the_whole(
    request: pytest.FixtureRequest, server: str, name: str
) -> None:
    store: Store = request.getfixturevalue(server)
    kind = kind_of(name)

    @given(SEEDS, LIMITS, st.booleans())
    @SOME
    def check(seed: int, limit: PieceSize, size_is_known: bool) -> None:
        value = DRAGONFLY_MAKERS[name](Random(seed))
        send(raw, rebuild(KEY, value, None))
        size = as_int(raw(b"MEMORY", b"USAGE", KEY)) if size_is_known else 0
        hasher, _ = hashed(connection, kind, limit, size)
        assert hasher.digest() == whole(connection, kind, KEY)
        if isinstance(hasher, StreamHasher):
            reply = connection.exchange([STREAM.prefix + argument(KEY) + STREAM.suffix])[0]
            assert hasher.counters == STREAM.counters(reply)

    with connected(store) as connection, Raw(store.url) as raw:
        check()


@pytest.mark.parametrize("length", [0, 1, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST + 7])
@pytest.mark.parametrize("beginning", [b"", b"HYLL", b"HYLL\0\0\0\0", b"HYLL\1\0\0\0"])
def test_a_string_of_any_length_whatever_it_begins_with(green: Store, length: int, beginning: bytes) -> None:
    data = (beginning + Random(length).randbytes(length))[:length]
    kind = KINDS[b"string"]
    with connected(green) as connection, Raw(green.url) as raw:
        send(raw, rebuild(KEY, Text(data), None))
        hasher, pieces = hashed(connection, kind, PieceSize(1, 1))

    assert hasher.digest() == kind.digest(data)
    assert hasher.size == length
    assert pieces == max(1, -(-length // LONGEST))


@pytest.mark.parametrize("name", ["list", "zset", "stream"])
def test_no_piece_holds_more_than_was_asked_for(green: Store, name: str) -> None:
    write: dict[str, Callable[[Redis], object]] = {
        "list": lambda c: c.rpush(KEY, *range(500)),
        "zset": lambda c: c.zadd(KEY, {f"m{n}": n for n in range(500)}),
        "stream": lambda c: [c.xadd(KEY, {"f": n}, id=f"{n + 1}-0") for n in range(500)],
    }
    write[name](green.client)
    width = 2 if name == "zset" else 1
    with connected(green) as connection:
        by_count = [*kind_of(name).pieces(connection, KEY, 0, PieceSize(10**9, 7))]
        by_size = [*kind_of(name).pieces(connection, KEY, 500_000, PieceSize(10_000, 4096))]

    for pieces, most in ((by_count, 7), (by_size, 10)):
        lengths = [
            len(piece.content) // width
            for piece in pieces
            if isinstance(piece.content, list) and piece.part in ("value", "entries")
        ]
        assert sum(lengths) == 500
        assert max(lengths) == most


@pytest.mark.dragonfly
def test_the_expiries_of_a_hashs_fields_come_with_its_pieces(green_dragonfly: Store) -> None:
    @given(SEEDS, LIMITS)
    @SOME
    def check(seed: int, limit: PieceSize) -> None:
        value = DRAGONFLY_MAKERS["hash with expiring fields"](Random(seed))
        assert isinstance(value, Fields)
        send(raw, rebuild(KEY, value, None))
        found: dict[bytes, int] = {}
        for piece in HASH.pieces(connection, KEY, 0, limit):
            assert isinstance(piece.content, list)
            fields = [field for field in piece.content[::2] if isinstance(field, bytes)]
            found |= dict(zip(fields, piece.expiries or [-1] * len(fields), strict=True))
        told = as_list(raw(b"HPEXPIRETIME", KEY, b"FIELDS", len(found), *found))
        assert [*found.values()] == told
        assert found.keys() == value.fields.keys()
        assert {field: ms // 1000 for field, ms in found.items() if ms != -1} == value.expiries

    with connected(green_dragonfly) as connection, Raw(green_dragonfly.url) as raw:
        check()


# -- writing -----------------------------------------------------------------------------------------------------------

WAYS = [
    *(pytest.param("blue", "green_redis", name, id=f"redis-redis-{name}") for name in MAKERS),
    *(
        pytest.param(
            source, "green_dragonfly", name, id=f"{source}-dragonfly-{name}", marks=pytest.mark.dragonfly
        )
        for source, makers in (("blue", MAKERS), ("green_dragonfly", DRAGONFLY_MAKERS))
        for name in makers
    ),
    *(
        pytest.param(
            "green_dragonfly", "blue", name, id=f"dragonfly-redis-{name}", marks=pytest.mark.dragonfly
        )
        for name in MAKERS
    ),
]


def assert_equal(source: Store, target: Store, written: bytes, lost: tuple[str, ...], name: str) -> None:
    if name == "json":
        with Raw(source.url) as ours, Raw(target.url) as theirs:
            assert ours(b"JSON.GET", KEY) == theirs(b"JSON.GET", written)
        return
    ours_, theirs_ = oracle.read(source.url, 0, KEY), oracle.read(target.url, 0, written)
    if isinstance(ours_, oracle.Stream) and isinstance(theirs_, oracle.Stream):
        if any("entries-added" in part or "max-deleted" in part for part in lost):
            ours_ = replace(ours_, counters=None)
        assert ours_.same(theirs_)
    else:
        assert ours_ == theirs_


@pytest.mark.dragonfly
def test_a_connection_is_asked_once_how_expiries_of_fields_are_written(green_dragonfly: Store) -> None:
    farther = int(time() * 1000) + 100_000
    with endpoint("target", green_dragonfly.url).connect("test") as connection:
        before = unknown_commands(connection).get("HPEXPIREAT", 0)
        for key in (b"first", b"second", b"third"):
            piece = Piece([b"field", b"value"], expiries=(farther,))
            assert HASH.write(connection, key, iter([piece])) == ()
        assert unknown_commands(connection)["HPEXPIREAT"] == before + 1
    with Raw(green_dragonfly.url) as raw:
        for name in ("first", "second", "third"):
            (time_ms,) = as_list(raw("HPEXPIRETIME", name, "FIELDS", 1, "field"))
            assert abs(as_int(time_ms) - farther) <= 1000


@pytest.mark.parametrize(("from_", "onto", "name"), WAYS)
def test_what_is_written_from_the_pieces_is_equal_by_the_oracle(
    request: pytest.FixtureRequest, from_: str, onto: str, name: str
) -> None:
    source: Store = request.getfixturevalue(from_)
    target: Store = request.getfixturevalue(onto)
    written = b"written again"

    @given(SEEDS, LIMITS)
    @settings(max_examples=25, deadline=None)
    @example(seed=1, limit=PieceSize(1, 1))
    def check(seed: int, limit: PieceSize) -> None:
        kind = kind_of(name)
        send(raw, rebuild(KEY, DRAGONFLY_MAKERS[name](Random(seed)), None))
        theirs.command(b"DEL", written)
        lost = kind.write(theirs, written, kind.pieces(ours, KEY, 0, limit))
        assert theirs.command(b"PING") == b"PONG", "no reply is left on the connection"
        assert_equal(source, target, written, lost, name)
        if name != "stream":
            assert lost == ()

    with connected(source) as ours, connected(target) as theirs, Raw(source.url) as raw:
        check()


# -- changes meanwhile -------------------------------------------------------------------------------------------------

BIG: dict[str, Callable[[Redis], object]] = {
    "string": lambda c: c.set(KEY, b"x" * (3 * LONGEST)),
    "list": lambda c: c.rpush(KEY, *range(1000)),
    "set": lambda c: c.sadd(KEY, *(f"member {n}" for n in range(1000))),
    "hash": lambda c: c.hset(KEY, mapping={f"field {n}": n for n in range(1000)}),
    "zset": lambda c: c.zadd(KEY, {f"member {n}": n for n in range(1000)}),
    "stream": lambda c: [
        *(c.xadd(KEY, {"f": n}, id=f"{n + 1}-0") for n in range(100)),
        c.xgroup_create(KEY, "g", "0"),
        c.xreadgroup("g", "c", {KEY: ">"}, count=20),
    ],
}
HARM: dict[str, dict[str, Callable[[Redis], object]]] = {
    "string": {"grown": lambda c: c.append(KEY, "y"), "shrunk": lambda c: c.set(KEY, b"x" * (2 * LONGEST))},
    "list": {"grown": lambda c: c.lpush(KEY, "y"), "shrunk": lambda c: c.ltrim(KEY, 0, 2)},
    "set": {"grown": lambda c: c.sadd(KEY, "y"), "shrunk": lambda c: c.srem(KEY, "member 7")},
    "hash": {"grown": lambda c: c.hset(KEY, "y", "y"), "shrunk": lambda c: c.hdel(KEY, "field 7")},
    "zset": {"grown": lambda c: c.zadd(KEY, {"y": -1}), "shrunk": lambda c: c.zpopmin(KEY)},
    "stream": {
        "grown": lambda c: c.xadd(KEY, {"f": "y"}),
        "shrunk": lambda c: c.xdel(KEY, "90-0"),
        "last id raised": lambda c: c.execute_command("XSETID", KEY, "9000-0"),  # type: ignore[no-untyped-call]
        "acknowledged": lambda c: c.xack(KEY, "g", "3-0", "20-0"),
        "delivered": lambda c: c.xreadgroup("g", "c", {KEY: ">"}, count=1),
        "group added": lambda c: c.xgroup_create(KEY, "h", "0"),
        "group destroyed": lambda c: c.xgroup_destroy(KEY, "g"),
    },
}
ANY_KIND: dict[str, Callable[[Redis], object]] = {
    "gone": lambda c: c.delete(KEY),
    "another type": lambda c: (
        kind := c.type(KEY),
        c.delete(KEY),
        (c.set if kind == b"list" else c.lpush)(KEY, "a"),
    ),
}


HARMS = [(name, what) for name, some in HARM.items() for what in (*some, *ANY_KIND)]


@pytest.mark.parametrize(("name", "what"), HARMS, ids=[f"{name}-{what}" for name, what in HARMS])
def test_a_value_that_changes_while_its_pieces_are_read_is_noticed(
    green: Store, name: str, what: str
) -> None:
    BIG[name](green.client)
    harm = (HARM[name] | ANY_KIND)[what]
    with connected(green) as connection:
        pieces = iter(kind_of(name).pieces(connection, KEY, 0, PieceSize(1, 10)))
        piece = next(pieces)
        while name == "stream" and piece.part != "entries":
            piece = next(pieces)  # Its groups are read by now, and are to come again behind the entries.

        harm(green.client)

        with pytest.raises(ValueChanged):
            list(pieces)
        assert connection.command(b"PING") == b"PONG", "no reply is left on the connection"
