"""Payloads under another RDB version are still the same payloads to a real server."""

from __future__ import annotations

import pytest
import redis

from integrity.transfer.payload import lowest_rdb_version, rdb_version, with_rdb_version
from tests.servers import Store

VALKEY_9 = 80


def _fill(store: Store) -> list[bytes]:
    client = store.client
    client.set("string", b"value")
    client.set("number", 12345)
    client.rpush("list", *range(200))
    client.sadd("numbers", *range(50))
    client.sadd("words", *(f"word {i}" for i in range(300)))
    client.hset("hash", mapping={f"field {i}": i for i in range(20)})
    client.zadd("scores", {f"member {i}": i / 7 for i in range(200)})
    client.xadd("stream", {"a": "1"}, id="5-1")
    return [b"string", b"number", b"list", b"numbers", b"words", b"hash", b"scores", b"stream"]


def test_a_newer_version_is_refused_and_the_oldest_fitting_one_is_taken(blue: Store, green: Store) -> None:
    for key in _fill(blue):
        payload = blue.client.dump(key)
        assert isinstance(payload, bytes)
        newer = with_rdb_version(payload, VALKEY_9)
        assert rdb_version(newer) == VALKEY_9
        with pytest.raises(redis.ResponseError, match="version or checksum"):
            green.client.restore(key, 0, newer)
        version = lowest_rdb_version(payload[0])
        assert version is not None
        green.client.restore(key, 0, with_rdb_version(newer, version))
        assert green.client.type(key) == blue.client.type(key)
    assert green.client.zrange("scores", 0, -1, withscores=True) == blue.client.zrange(
        "scores", 0, -1, withscores=True
    )
    assert green.client.lrange("list", 0, -1) == blue.client.lrange("list", 0, -1)


def test_the_same_version_leaves_the_payload_as_it_is(blue: Store) -> None:
    for key in _fill(blue):
        payload = blue.client.dump(key)
        assert isinstance(payload, bytes)
        assert with_rdb_version(payload, rdb_version(payload)) == payload


def test_types_of_newer_servers_only_have_no_older_version() -> None:
    assert lowest_rdb_version(25) is None
