"""Whatever a command changes on a real server, MONITOR as a feed names it."""

from __future__ import annotations

from contextlib import closing
from random import Random
from threading import Thread

import pytest

from integrity.endpoint import Endpoint
from integrity.settings import EndpointSettings
from integrity.sync.feed import Taken
from integrity.sync.monitor import MonitorFeed
from tests.raw import Argument, Raw, as_bytes, as_int, as_list
from tests.servers import Store
from tests.write_commands import (
    COMMON,
    DRAGONFLY,
    DRAGONFLY_SCRIPTS,
    REDIS,
    REDIS_SCRIPTS,
    SCRIPTS,
    Case,
    changed_keys,
    contents,
    prepare,
    run,
)

_EVERYTHING = {"FLUSHALL", "FLUSHDB", "SWAPDB"}


def endpoint(store: Store) -> Endpoint:
    return Endpoint.from_settings("source", EndpointSettings.model_validate({"url": store.url}))


def seen(feed: MonitorFeed) -> Taken:
    """All that happened so far."""
    assert feed.catch_up(10)
    return feed.take()


def check(store: Store, case: Case) -> None:
    with Raw(store.url) as raw, closing(MonitorFeed.open(endpoint(store))) as feed:
        prepare(raw)
        before = contents(raw)
        seen(feed)
        run(raw, case)
        taken = seen(feed)
        changed = changed_keys(before, contents(raw))
        assert changed, "the case is of no use"
        assert changed <= taken.names.keys()
        assert (taken.everything, taken.loss) == (None, None)


@pytest.mark.parametrize("case", [*COMMON, *REDIS, *SCRIPTS, *REDIS_SCRIPTS], ids=str)
def test_names_every_key_that_a_command_changes_on_redis(blue: Store, case: Case) -> None:
    check(blue, case)


@pytest.mark.dragonfly
@pytest.mark.parametrize("case", [*COMMON, *DRAGONFLY, *SCRIPTS, *DRAGONFLY_SCRIPTS], ids=str)
def test_names_every_key_that_a_command_changes_on_dragonfly(green_dragonfly: Store, case: Case) -> None:
    check(green_dragonfly, case)


def writing_commands(raw: Raw) -> set[str]:
    """What the server's own table says to write, without what it never shows (administration)."""
    entries = [as_list(entry) for entry in as_list(raw("COMMAND"))]
    flags = {as_bytes(entry[0]).decode().upper(): set(as_list(entry[2])) for entry in entries}
    return {name for name, said in flags.items() if b"write" in said and b"admin" not in said}


def test_every_writing_command_of_redis_has_a_case(blue: Store) -> None:
    tried = {name for case in (*COMMON, *REDIS) for name in case.commands}
    with Raw(blue.url) as raw:
        # MIGRATE has a test of its own below, RESTORE too; the last one is for clusters.
        assert writing_commands(raw) - tried - _EVERYTHING == {"MIGRATE", "RESTORE", "RESTORE-ASKING"}


@pytest.mark.dragonfly
def test_every_writing_command_of_dragonfly_has_a_case(green_dragonfly: Store) -> None:
    tried = {name for case in (*COMMON, *DRAGONFLY) for name in case.commands}
    # The first change nothing that DUMP shows; the last are tried below.
    invisible = {"BF.LOADCHUNK", "CF.COMPACT", "SHRINK", "STICK"}
    with Raw(green_dragonfly.url) as raw:
        assert writing_commands(raw) - tried - _EVERYTHING - invisible == {"RESTORE", "RM"}


def test_names_a_key_that_is_restored_or_migrated(blue: Store, green_redis: Store) -> None:
    host, port = green_redis.url.removeprefix("redis://").rstrip("/").split(":")
    with Raw(blue.url) as raw, closing(MonitorFeed.open(endpoint(blue))) as feed:
        prepare(raw)
        seen(feed)
        raw("RESTORE", "new", 0, as_bytes(raw("DUMP", "hash")))
        assert seen(feed).names.keys() == {b"new"}
        raw("MIGRATE", host, port, "text", 0, 1000)
        assert seen(feed).names.keys() >= {b"text"}
        raw("MIGRATE", host, port, "", 0, 1000, "REPLACE", "keys", "list", "set")
        assert seen(feed).names.keys() >= {b"list", b"set"}
        assert not as_int(raw("EXISTS", "text", "list", "set"))


@pytest.mark.parametrize(
    ("call", "engine"),
    [
        *((call, "redis") for call in ("FLUSHDB", "FLUSHALL", "FLUSHALL ASYNC", "SWAPDB 0 1")),
        *(
            pytest.param(call, "dragonfly", marks=pytest.mark.dragonfly)
            for call in ("FLUSHDB", "FLUSHALL", "RM 0 MATCH lis*")
        ),
    ],
)
def test_a_command_that_may_change_all_keys_makes_everything_suspect(
    request: pytest.FixtureRequest, call: str, engine: str
) -> None:
    store = request.getfixturevalue(f"green_{engine}")
    with Raw(store.url) as raw, closing(MonitorFeed.open(endpoint(store))) as feed:
        prepare(raw)
        seen(feed)
        raw(*call.split())
        assert seen(feed).everything is not None
        raw("SET", "a", "1")
        assert seen(feed).everything is None


READS = """
GET text|MGET text other|LRANGE list 0 -1|HGETALL hash|SMEMBERS set|ZRANGE zset 0 -1|XRANGE stream - +
TTL text|TYPE text|SCAN 0|EXISTS text|DUMP list|STRLEN text|BITCOUNT bits|SORT list ALPHA
XINFO STREAM stream|XREAD STREAMS stream 0|KEYS *|MULTI|GET text|EXEC|PING|INFO|CLIENT LIST
DBSIZE|WATCH text|UNWATCH|GEOPOS geo p|XPENDING stream group|PUBLISH c m|ECHO a
EVAL_RO return(1) 1 text|SCRIPT EXISTS a|ZUNION 2 zset zset2|SINTERCARD 2 set set2
BITFIELD_RO bits GET u8 0|TIME|COMMAND
"""


def test_reads_name_no_key(green: Store) -> None:
    with Raw(green.url) as raw, closing(MonitorFeed.open(endpoint(green))) as feed:
        prepare(raw)
        seen(feed)
        for call in READS.strip().replace("\n", "|").split("|"):
            raw(*call.split())
        assert seen(feed) == Taken()


def test_names_binary_keys_as_they_are(green: Store) -> None:
    rng = Random(7)
    pieces = [
        b'"',
        b"\\",
        b" ",
        b'" "',
        b"\r\n",
        b"\x00",
        b"\xff",
        b"x",
        b"\\x41",
        b"{",
        "ключ".encode(),
        b"\x7f",
        b"\t",
    ]

    def some_key() -> bytes:
        return b"".join(rng.choice(pieces) for _ in range(rng.randrange(9))) + rng.randbytes(rng.randrange(6))

    with Raw(green.url) as raw, closing(MonitorFeed.open(endpoint(green))) as feed:
        written: set[bytes] = set()
        calls: list[tuple[Argument, ...]] = []
        for _ in range(2000):
            keys = [some_key() for _ in range(rng.randrange(1, 5))]
            written.update(keys)
            calls.append(
                (b"MSET", *(part for key in keys for part in (key, some_key())))
                if len(keys) > 1
                else (b"SET", keys[0], some_key())
            )
        raw.many(calls)
        assert seen(feed).names.keys() == written == raw.keys()


def test_names_what_several_clients_change_at_once(green: Store) -> None:
    """Calls in any order, most of which succeed: whatever differs afterwards was named."""
    usable = [
        case
        for case in (*COMMON, *SCRIPTS)
        if not any(name.startswith(("BL", "BR", "BZ")) for name in case.commands)
        # Where another client has made that key something else meanwhile, it ends a Dragonfly (commands.fatal).
        and not any("MKSTREAM" in call or b"MKSTREAM" in call for call in case.calls)
    ]
    rng = Random(11)
    with Raw(green.url) as raw, closing(MonitorFeed.open(endpoint(green))) as feed:
        prepare(raw)
        seen(feed)
        before = contents(raw)
        changes = 0
        for _ in range(12):
            parts = [[call for case in rng.choices(usable, k=4) for call in case.calls] for _ in range(3)]

            def make(calls: list[tuple[Argument, ...]]) -> None:
                with Raw(green.url) as client:
                    client.many(calls)

            threads = [Thread(target=make, args=(part,)) for part in parts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            taken = seen(feed)
            after = contents(raw)
            changed = changed_keys(before, after)
            assert changed <= taken.names.keys()
            assert (taken.everything, taken.loss) == (None, None)
            before, changes = after, changes + len(changed)
        assert changes > 30
