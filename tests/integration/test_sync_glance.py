"""The first look at many keys: what differs never passes for equal, and most of what is equal does."""

from __future__ import annotations

from time import time

import pytest

from integrity.endpoint import Endpoint
from integrity.ledger.vocabulary import Direction
from integrity.settings import EndpointSettings, Settings
from integrity.sync.glance import Glance
from integrity.sync.link import Link
from tests.raw import Raw
from tests.servers import Store

Command = tuple[bytes | int | str | float, ...]
EQUAL: tuple[Command, ...] = (
    ("SET", "str", b"\x00v"), ("SET", "number", 12), ("SET", "kept", "v", "PXAT", int(time() * 1000) + 100_000_000),
    ("RPUSH", "list", "a", "b"), ("HSET", "hash", "f", "v", "g", "w"), ("ZADD", "zset", 1, "a", "-inf", "b"),
    ("SADD", "numbers", 1, 2, 3), ("PFADD", "hll", "a", "b", "c"), ("XADD", "stream", "1-1", "f", "v"),
    ("XGROUP", "CREATE", "stream", "g", 0), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "stream", ">"),
)  # fmt: skip
CHANGES: dict[str, Command] = {
    "str": ("APPEND", "str", "x"), "number": ("INCR", "number"), "kept": ("PERSIST", "kept"),
    "list": ("RPUSH", "list", "c"), "hash": ("HSET", "hash", "f", "w"), "zset": ("ZADD", "zset", "1.0000000001", "a"),
    "numbers": ("SREM", "numbers", 2), "hll": ("PFADD", "hll", "d"), "stream": ("XACK", "stream", "g", "1-1"),
    "gone": ("SET", "gone", "only here"), "missing": ("DEL", "missing"), "typed": ("DEL", "typed"),
}  # fmt: skip
NAMES = [name.encode() for name in CHANGES] + [b"set", b"none"]


def link_of(source: Store, target: Store) -> Link:
    ours = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": source.url}))
    theirs = Endpoint.from_settings("target", EndpointSettings.model_validate({"url": target.url}))
    return Link(Direction.FORWARD, ours, theirs, ours.identify(), theirs.identify())


def equal_but_for_order(source: Store, target: Store) -> None:
    for store, members in ((source, "abcdefgh"), (target, "hgfedcba")):
        with Raw(store.url) as server:
            server.many([*EQUAL, ("SET", "missing", "v"), ("SET", "typed", "v"), ("SADD", "set", *members)])


@pytest.fixture(params=["forward", "backward"])
def sides(request: pytest.FixtureRequest, blue: Store, green: Store) -> tuple[Store, Store]:
    return (blue, green) if request.param == "forward" else (green, blue)


def test_equal_keys_are_seen_to_be_equal(sides: tuple[Store, Store]) -> None:
    source, target = sides
    equal_but_for_order(source, target)
    with Glance(link_of(source, target), Settings()) as glance:
        assert glance.unequal(NAMES, (0, 3, 7)) == {0: [], 3: [], 7: []}


@pytest.mark.parametrize("changed", list(CHANGES))
@pytest.mark.parametrize("here", ["source", "target"])
def test_a_change_on_either_side_is_seen(changed: str, here: str, sides: tuple[Store, Store]) -> None:
    source, target = sides
    equal_but_for_order(source, target)
    with Raw((source if here == "source" else target).url) as server:
        server(*CHANGES[changed])
    with Glance(link_of(source, target), Settings()) as glance:
        assert glance.unequal(NAMES, (0, 3)) == {0: [changed.encode()], 3: []}


def test_a_difference_in_another_database_is_seen_there(sides: tuple[Store, Store]) -> None:
    source, target = sides
    equal_but_for_order(source, target)
    with Raw(source.url, 3) as server:
        server("SET", "str", "v")
    with Glance(link_of(source, target), Settings()) as glance:
        assert glance.unequal(NAMES, (0, 3)) == {0: [], 3: [b"str"]}


def test_large_values_are_left_to_the_careful_look(sides: tuple[Store, Store]) -> None:
    source, target = sides
    for store in sides:
        with Raw(store.url) as server:
            server("SET", "large", "x" * 200_000)
            server("RPUSH", "many", *("x" * 20 for _ in range(20_000)))
    with Glance(link_of(source, target), Settings()) as glance:
        assert set(glance.unequal([b"large", b"many"], (0,))[0]) == {b"large", b"many"}


@pytest.mark.dragonfly
def test_fields_that_expire_are_compared(green_dragonfly: Store, blue: Store) -> None:
    """Dragonfly lets single fields expire, and Redis 7.0 does not."""
    for store in (green_dragonfly, blue):
        with Raw(store.url) as server:
            server("HSET", "hash", "f", "v")
    with Glance(link_of(green_dragonfly, blue), Settings()) as glance:
        assert glance.unequal([b"hash"], (0,)) == {0: []}
        with Raw(green_dragonfly.url) as server:
            server("HEXPIRE", "hash", 1000, "FIELDS", 1, "f")
        assert glance.unequal([b"hash"], (0,)) == {0: [b"hash"]}
