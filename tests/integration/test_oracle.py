"""The oracle sees every kind of damage, and sees none where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from greenfly.demo.dataset import fill
from tests.damage import DATABASES, damage
from tests.oracle import compare
from tests.raw import Raw, UnexpectedReply, as_bytes, as_entries, as_list, as_pending, as_table
from tests.servers import Store


def clone(source: Store, target: Store) -> None:
    """A faithful copy by DUMP and RESTORE."""
    for number in DATABASES:
        reader, writer = source.database(number), target.database(number)
        names = list(reader.scan_iter(count=1000))
        for start in range(0, len(names), 500):
            batch = names[start : start + 500]
            asked = reader.pipeline(transaction=False)
            for name in batch:
                asked.dump(name)
                asked.pttl(name)
            replies = asked.execute()
            now = _milliseconds(reader)
            wanted = writer.pipeline(transaction=False)
            for name, payload, left in zip(batch, replies[::2], replies[1::2], strict=True):
                wanted.restore(name, now + left if left > 0 else 0, payload, replace=True, absttl=True)
            wanted.execute()


def _milliseconds(client: Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def test_a_copy_has_no_difference_and_every_damage_is_named_exactly(blue: Store, green: Store) -> None:
    fill(blue.url, keys=6_000, seed=3)
    clone(blue, green)
    assert compare(blue.url, green.url) == []

    expected = {(d.database, d.key, d.expected) for d in damage(green.url, seed=3)}
    found = [(d.database, d.key, d.what) for d in compare(blue.url, green.url)]

    assert len(expected) == 240
    assert sorted(found) == sorted(expected)


def test_a_stream_with_one_other_id_differs_in_nothing_else(blue: Store, green: Store) -> None:
    fill(blue.url, keys=6_000, seed=4)
    clone(blue, green)
    changed = [d.key for d in damage(green.url, seed=4) if d.kind == "stream id changed"]
    with Raw(blue.url, 1) as ours, Raw(green.url, 1) as theirs:
        for key in changed:
            entries, other_entries = (as_entries(side("XRANGE", key, "-", "+")) for side in (ours, theirs))
            assert sum(a != b for a, b in zip(entries, other_entries, strict=True)) == 1
            assert _groups(ours, key) == _groups(theirs, key)


def _groups(raw: Raw, key: bytes) -> list[object]:
    facts: list[object] = []
    for group in map(as_table, as_list(raw("XINFO", "GROUPS", key))):
        name = as_bytes(group[b"name"])
        facts += [name, group[b"last-delivered-id"], as_pending(raw("XPENDING", key, name, "-", "+", 1000))]
        facts += sorted(
            as_bytes(as_table(item)[b"name"]) for item in as_list(raw("XINFO", "CONSUMERS", key, name))
        )
    return facts


def _two_entries(client: Redis) -> None:
    client.xadd("k", {"f": "v"}, id="1-1")
    client.xadd("k", {"f": "v"}, id="2-1")
    client.xgroup_create("k", "g", id="0")
    client.xreadgroup("g", "c", {"k": ">"}, count=1)


def _set_last_id(client: Redis) -> None:
    client.execute_command("XSETID", "k", "9-1")  # type: ignore[no-untyped-call]


SMALL_DAMAGE: dict[str, tuple[Callable[[Redis], object], Callable[[Redis], object]]] = {
    "last id of a stream": (_two_entries, _set_last_id),
    "a group's last delivered id": (_two_entries, lambda c: c.xgroup_setid("k", "g", "2-1")),
    "a consumer without pending entries": (_two_entries, lambda c: c.xgroup_createconsumer("k", "g", "idle")),
    "the owner of a pending entry": (
        _two_entries,
        lambda c: c.xclaim("k", "g", "d", 0, ["1-1"], retrycount=1),
    ),
    "a group gone": (_two_entries, lambda c: c.xgroup_destroy("k", "g")),
    "a stream's field": (_two_entries, lambda c: (c.xdel("k", "2-1"), c.xadd("k", {"f": "w"}, id="2-2"))),
    "a register of a sparse HyperLogLog": (lambda c: c.pfadd("k", "a", "b"), lambda c: c.pfadd("k", "c")),
    "a register of a dense HyperLogLog": (
        lambda c: c.pfadd("k", *range(9000)),
        lambda c: c.pfadd("k", *range(9000, 9100)),
    ),
    "a byte of a string that only begins like a HyperLogLog": (
        lambda c: c.set("k", b"HYLL and 8 more"),
        lambda c: c.set("k", b"HYLL and 9 more"),
    ),
    "an empty string": (lambda c: c.set("k", ""), lambda c: c.set("k", " ")),
    "a score's sign at infinity": (lambda c: c.zadd("k", {"m": "inf"}), lambda c: c.zadd("k", {"m": "-inf"})),
    "an element pushed": (lambda c: c.rpush("k", "a"), lambda c: c.rpush("k", "a")),
}


@pytest.mark.parametrize("name", SMALL_DAMAGE)
def test_small_damage_is_seen(blue: Store, green_redis: Store, name: str) -> None:
    make, harm = SMALL_DAMAGE[name]
    make(blue.client)
    make(green_redis.client)
    assert compare(blue.url, green_redis.url) == []

    harm(green_redis.client)

    assert [(d.key, d.what) for d in compare(blue.url, green_redis.url)] == [(b"k", "value")]


def test_what_servers_may_do_to_a_value_is_no_difference(blue: Store, green_redis: Store) -> None:
    for store in (blue, green_redis):
        store.client.pfadd("dense", *range(9000))
        store.client.pfadd("sparse", "a", "b")
    blue.client.pfcount("dense")  # stores the cached cardinality
    for member in (b"b", b"a"):
        blue.client.sadd("order", member)
    green_redis.client.sadd("order", b"a", b"b")
    blue.client.zadd("zero", {"m": "-0.0"})
    green_redis.client.zadd("zero", {"m": "0"})
    # The same registers, once sparse and once dense.
    green_redis.client.config_set("hll-sparse-max-bytes", 0)
    try:
        green_redis.client.delete("sparse")
        green_redis.client.pfadd("sparse", "a", "b")
    finally:
        green_redis.client.config_set("hll-sparse-max-bytes", 3000)
    assert blue.client.strlen("sparse") != green_redis.client.strlen("sparse")

    assert compare(blue.url, green_redis.url) == []


def test_the_tolerance_decides_about_expiries(blue: Store, green_redis: Store) -> None:
    at = _milliseconds(blue.client) + 3_600_000
    blue.client.set("k", "v", pxat=at)
    green_redis.client.set("k", "v", pxat=at + 1500)

    assert [d.what for d in compare(blue.url, green_redis.url, tolerance_ms=1499)] == ["expiry"]
    assert compare(blue.url, green_redis.url, tolerance_ms=1500) == []


def test_every_database_is_looked_at(blue: Store, green_redis: Store) -> None:
    blue.database(15).set("k", "v")
    green_redis.database(9).set("k", "v")

    found = [(d.database, d.what) for d in compare(blue.url, green_redis.url)]

    assert found == [(9, "extra"), (15, "missing")]


@pytest.mark.dragonfly
def test_a_type_that_it_cannot_read_is_never_passed_over(green_dragonfly: Store) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("JSON.SET", "k", "$", "{}")
    with pytest.raises(UnexpectedReply):
        compare(green_dragonfly.url, green_dragonfly.url)
