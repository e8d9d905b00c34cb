"""Keys that go with typed commands, in pieces, because they are big or because the target refuses their payload."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Final

import pytest
from redis import Redis

from integrity.transfer.temporary import PREFIX as TEMPORARY_PREFIX
from tests import oracle
from tests.cli import Greenfly
from tests.conftest import StartDragonfly, StartServer
from tests.proxy import Proxy
from tests.raw import Raw
from tests.runs import all_keys, detail, finding_rules, findings, migrate, verify
from tests.servers import Store
from tests.values import DRAGONFLY_MAKERS, MAKERS, Group, Id, Log, rebuild, send

IN_PIECES: Final = {
    "GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "1024",
    "GREENFLY_BIG_VALUES__PIECE_BYTES": "1024",
    "GREENFLY_BIG_VALUES__PIECE_ELEMENTS": "5",
}
"""Every value that uses more than 1 KiB is big."""
DAY_MS: Final = 86_400_000


@pytest.fixture(autouse=True)
def no_temporary_keys_are_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, no key of ours stays behind on any server."""
    stores = [
        request.getfixturevalue(name)
        for name in ("blue", "green", "green_redis", "green_dragonfly")
        if name in request.fixturenames
    ]
    yield
    for store in stores:
        assert [place for place in all_keys(store) if place[1].startswith(TEMPORARY_PREFIX)] == []


def differences(source: Store, target: Store) -> set[tuple[bytes, str]]:
    """By the oracle; streams of which only the counters differ are left out."""
    found: set[tuple[bytes, str]] = set()
    for difference in oracle.compare(source.url, target.url):
        ours = oracle.read(source.url, difference.database, difference.key)
        theirs = oracle.read(target.url, difference.database, difference.key)
        if not _same_but_for_counters(ours, theirs):
            found.add((difference.key, difference.what))
    return found


def _same_but_for_counters(ours: oracle.Plain, theirs: oracle.Plain) -> bool:
    if not isinstance(ours, oracle.Stream) or not isinstance(theirs, oracle.Stream):
        return False
    return replace(ours, counters=None).same(theirs)


# -- big values --------------------------------------------------------------------------------------------------------


def many_values(store: Store, seed: int, count: int = 400) -> list[bytes]:
    """Random values of every kind, most of them over 1 KiB; returns the names of the streams with deleted entries."""
    rng = Random(seed)
    counted = []
    with Raw(store.url) as raw:
        for number in range(count):
            name = [*MAKERS][number % len(MAKERS)]
            value = MAKERS[name](rng)
            key = b"%d:%b:%b" % (number, name.encode(), rng.randbytes(3))
            expiry = int(time.time() * 1000) + rng.randrange(DAY_MS // 24, 30 * DAY_MS)
            send(raw, rebuild(key, value, expiry if number % 3 == 0 else None))
            if isinstance(value, Log) and value.deleted:
                counted.append(key)
    return counted


@pytest.mark.parametrize("policy", ["fail", "replace"])
def test_big_values_of_every_kind_arrive_in_pieces(
    blue: Store, green: Store, greenfly: Greenfly, policy: str
) -> None:
    with_counters = many_values(blue, seed=7)
    if policy == "replace":
        many_values(green, seed=8)
        blue_names, green_names = all_keys(blue), all_keys(green)
        with Raw(green.url) as raw:
            for old, new in zip(
                sorted(green_names - blue_names), sorted(blue_names - green_names), strict=True
            ):
                raw("RENAME", old[1], new[1])

    run = migrate(greenfly, blue.url, green.url, "--conflict", policy, env=IN_PIECES)

    assert run.exit_code == 0, run.stderr
    big = detail(run, "stream", "big")
    assert isinstance(big, int)
    assert big > 100
    assert detail(run, "stream", "rewritten") == detail(run, "verify", "big") == big
    assert differences(blue, green) == set()
    excepted = finding_rules(run)
    assert {rule for rules in excepted.values() for rule in rules} <= {"typed-rewrite"}
    assert {key for kind, _, _, key in findings(run) if kind == "value"} <= set(with_counters)
    whole = verify(greenfly, blue.url, green.url)
    assert whole.exit_code == 0, "values that were written in pieces are equal when they are read whole"


def test_skip_keeps_what_is_there_and_says_so_of_big_values_too(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for name in ("kept", "new"):
        blue.client.rpush(name, *range(1000))
    green.client.set("kept", "old")

    run = migrate(greenfly, blue.url, green.url, "--conflict", "skip", env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS"), run.stderr
    assert green.client.get("kept") == b"old"
    assert green.client.llen("new") == 1000
    assert findings(run) == [("skipped", "exception", 0, b"kept"), ("type", "exception", 0, b"kept")]


def test_a_big_value_is_damaged_by_one_element_and_found(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    write: dict[str, Callable[[Redis], object]] = {
        "list": lambda c: c.rpush("list", *range(2000)),
        "set": lambda c: c.sadd("set", *range(2000)),
        "hash": lambda c: c.hset("hash", mapping={f"f{n}": n for n in range(2000)}),
        "zset": lambda c: c.zadd("zset", {f"m{n}": n for n in range(2000)}),
        "string": lambda c: c.set("string", b"x" * 200_000),
        "equal": lambda c: c.set("equal", b"x" * 200_000),
    }
    for make in write.values():
        make(blue.client)
    assert migrate(greenfly, blue.url, green.url, env=IN_PIECES).exit_code == 0
    green.client.lset("list", 1234, "damaged")
    green.client.srem("set", 77)
    green.client.hset("hash", "f1999", "damaged")
    green.client.zadd("zset", {"m5": 5.0000000000000009})
    green.client.setrange("string", 150_000, b"y")

    run = verify(greenfly, blue.url, green.url, env=IN_PIECES)

    assert run.exit_code == 1
    assert findings(run) == [
        ("value", "open", 0, key) for key in (b"hash", b"list", b"set", b"string", b"zset")
    ]
    assert detail(run, "verify", "big") == 6


# -- streams -----------------------------------------------------------------------------------------------------------


def streams(store: Store) -> None:
    """Streams with everything that a payload would carry."""
    entries: dict[Id, tuple[bytes, ...]] = {(n, 0): (b"f", b"v%d" % n) for n in range(1, 40)}
    everyone = (b"ann", b"bob", b"idle")
    pending = tuple(((n, 0), everyone[n % 2], 1 + n % 7) for n in range(1, 40, 2))
    shapes = {
        b"several groups": Log(
            entries,
            frozenset(),
            (50, 3),
            (
                Group(b"a", (39, 0), everyone, pending),
                Group(b"b\0\r\n", (0, 0), (), ()),
                Group(b"c", (99, 9), (), ()),
            ),
        ),
        b"pending and deleted": Log(
            {i: parts for i, parts in entries.items() if i[0] > 10},
            frozenset(i for i in entries if i[0] <= 10),
            (39, 0),
            (Group(b"a", (39, 0), everyone, pending),),
        ),
        b"the last one is deleted": Log(
            {i: parts for i, parts in entries.items() if i[0] < 39},
            frozenset({(39, 0)}),
            (39, 0),
            (Group(b"a", (39, 0), (b"ann",), (((39, 0), b"ann", 3),)),),
        ),
        b"empty": Log({}, frozenset(entries), (39, 0), (Group(b"a", (39, 0), everyone, pending),)),
        b"empty without a group": Log({}, frozenset(entries), (77, 0), ()),
    }
    with Raw(store.url) as raw:
        for key, value in shapes.items():
            send(raw, value.write(key))


def test_streams_arrive_with_groups_consumers_and_pending_entries(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    streams(blue)
    payloads_break = Proxy(
        green.url, lambda data: (data.replace(b"$7\r\nRESTORE\r\n", b"$7\r\nRESTURE\r\n"), False)
    )

    with payloads_break as proxy:
        run = migrate(greenfly, blue.url, proxy.url)

    assert run.exit_code == 0, run.stderr
    assert detail(run, "stream", "rewritten") == 5
    assert differences(blue, green) == set()
    kinds = {(kind, state) for kind, state, _, _ in findings(run)}
    assert kinds <= {("not-carried", "exception"), ("value", "exception")}
    if green.engine == "redis":
        assert oracle.compare(blue.url, green.url) == [], "Redis takes the counters as well"


@pytest.mark.dragonfly
def test_streams_of_dragonfly_arrive_in_a_redis_that_refuses_their_payload(
    green_dragonfly: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    streams(green_dragonfly)

    run = migrate(greenfly, green_dragonfly.url, green_redis.url)

    assert run.exit_code == 0, run.stderr
    assert detail(run, "stream", "rewritten") == 0
    assert detail(run, "stream", "relabelled") == 5, "in the form of Redis 7.0"
    assert oracle.compare(green_dragonfly.url, green_redis.url) == []


@pytest.mark.dragonfly
def test_a_consumer_whose_name_dragonfly_cuts_is_a_difference(
    blue: Store, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    for name in ("fine", "cut"):
        blue.client.xadd(name, {"f": "v"}, id="1-1")
        blue.client.xgroup_create(name, "g", "0")
    blue.client.xgroup_createconsumer("cut", "g", b"ann\0of accounting")
    blue.client.xgroup_createconsumer("fine", "g", b"ann of accounting")

    run = migrate(greenfly, blue.url, green_dragonfly.url)

    assert (run.exit_code, findings(run)) == (1, [("value", "open", 0, b"cut")])


# -- hash fields that expire -------------------------------------------------------------------------------------------


def field_times(store: Store, key: str, fields: int) -> list[object]:
    with Raw(store.url) as raw:
        reply = raw("HPEXPIRETIME", key, "FIELDS", fields, *(f"f{n}" for n in range(fields)))
    assert isinstance(reply, list)
    return [*reply]


@pytest.mark.dragonfly
def test_the_expiries_of_hash_fields_arrive_in_pieces(
    green_dragonfly: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly
) -> None:
    other = start_dragonfly()
    later = (int(time.time()) + 7200) * 1000
    green_dragonfly.client.hset("h", mapping={f"f{n}": "v" * 50 for n in range(100)})
    with Raw(green_dragonfly.url) as raw:
        for n in range(0, 100, 3):
            raw("HSETEX", "h", "PXAT", later + 1000 * n, "FIELDS", 1, f"f{n}", "w" * 50)

    run = migrate(greenfly, green_dragonfly.url, other.url, env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert (detail(run, "stream", "rewritten"), detail(run, "verify", "field_expiries")) == (1, True)
    ours, theirs = field_times(green_dragonfly, "h", 100), field_times(other, "h", 100)
    for mine, yours in zip(ours, theirs, strict=True):
        assert isinstance(mine, int)
        assert isinstance(yours, int)
        assert (mine == -1) == (yours == -1)
        assert abs(mine - yours) <= 1000
    with Raw(other.url) as raw:
        raw("HSET", "h", "f3", "w" * 50)
        raw("HSETEX", "h", "PXAT", later + 60_000, "FIELDS", 1, "f6", "w" * 50)
    harmed = field_times(other, "h", 100) != theirs
    for env in (IN_PIECES, {}):
        again = verify(greenfly, green_dragonfly.url, other.url, env=env)
        assert harmed
        assert (again.exit_code, findings(again)) == (1, [("field-expiry", "open", 0, b"h")])


@pytest.mark.dragonfly
def test_field_expiries_that_the_target_cannot_have_are_named_and_no_pass(
    green_dragonfly: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("HSET", "plain", "a", "1")
        raw("HSET", "h", "a", "1", "b", "2")
        raw("HSETEX", "h", "EX", 3600, "FIELDS", 1, "b", "2")

    run = migrate(greenfly, green_dragonfly.url, green_redis.url)

    assert green_redis.client.hgetall("h") == {b"a": b"1", b"b": b"2"}
    assert run.exit_code == 1
    assert findings(run) == [("field-expiry", "open", 0, b"h"), ("not-carried", "exception", 0, b"h")]


@pytest.mark.dragonfly
def test_json_documents_arrive_in_pieces(
    green_dragonfly: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly
) -> None:
    other = start_dragonfly()
    rng = Random(4)
    with Raw(green_dragonfly.url) as raw:
        for n in range(30):
            send(raw, rebuild(b"j%d" % n, DRAGONFLY_MAKERS["json"](rng), None))
        raw(
            "JSON.SET",
            "big",
            "$",
            '{"a": [' + ",".join(f'{{"n": {n}, "t": "zoë {n}"}}' for n in range(500)) + "]}",
        )
        raw("PEXPIRE", "big", DAY_MS)

    run = migrate(greenfly, green_dragonfly.url, other.url, env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    rewritten = detail(run, "stream", "rewritten")
    assert isinstance(rewritten, int)
    assert rewritten >= 1
    assert 0 < other.client.pttl("big") <= DAY_MS


# -- expiries ----------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_an_expiry_beyond_dragonflys_limit_becomes_the_longest_it_has(
    blue: Store, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    far = int(time.time() * 1000) + 20 * 365 * DAY_MS
    for name, length in (("small", 1), ("big", 2000)):
        blue.client.rpush(name, *range(length))
        blue.client.pexpireat(name, far)
        blue.client.set(f"{name} string", "x" * length, pxat=far)

    run = migrate(greenfly, blue.url, green_dragonfly.url, env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS"), run.stderr
    names = [b"big", b"big string", b"small", b"small string"]
    assert findings(run) == [("expiry", "exception", 0, key) for key in names]
    assert finding_rules(run) == {key: {"expiry-limit"} for key in names}
    for key in names:
        assert green_dragonfly.client.ttl(key) > 268_000_000


@pytest.mark.dragonfly
def test_a_shorter_expiry_is_no_limit(blue: Store, green_dragonfly: Store, greenfly: Greenfly) -> None:
    far = int(time.time() * 1000) + 20 * 365 * DAY_MS
    blue.client.set("k", "v", pxat=far)
    assert migrate(greenfly, blue.url, green_dragonfly.url).exit_code == 0
    green_dragonfly.client.pexpire("k", 365 * DAY_MS)

    run = verify(greenfly, blue.url, green_dragonfly.url)

    assert (run.exit_code, findings(run)) == (1, [("expiry", "open", 0, b"k")])


# -- a source that changes ---------------------------------------------------------------------------------------------


def once(sign: bytes, act: Callable[[], object], *, times: int = 1) -> Callable[[bytes], tuple[bytes, bool]]:
    """Do something right before the first commands with *sign* in them are passed on."""
    left = times

    def change(data: bytes) -> tuple[bytes, bool]:
        nonlocal left
        if sign in data and left:
            left -= 1
            act()
        return data, False

    return change


SECOND_PIECE: Final = b"$6\r\nLRANGE\r\n$1\r\nk\r\n$1\r\n5\r\n"


@pytest.fixture
def long_list(blue: Store) -> Store:
    blue.client.rpush("k", *range(1000))
    blue.client.set("other", "v")
    return blue


def test_a_big_key_that_vanishes_while_it_is_read_does_not_come_into_being(
    long_list: Store, green: Store, greenfly: Greenfly
) -> None:
    with Proxy(long_list.url, once(SECOND_PIECE, lambda: long_list.client.delete("k"))) as proxy:
        run = migrate(greenfly, proxy.url, green.url, env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "vanished") == 1
    assert all_keys(green) == {(0, b"other")}


def test_a_big_key_that_grows_while_it_is_read_is_read_again(
    long_list: Store, green: Store, greenfly: Greenfly
) -> None:
    with Proxy(
        long_list.url, once(SECOND_PIECE, lambda: long_list.client.rpush("k", "more"), times=2)
    ) as proxy:
        run = migrate(greenfly, proxy.url, green.url, env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert green.client.llen("k") == 1002
    assert oracle.compare(long_list.url, green.url) == []


def test_a_big_key_that_never_stands_still_is_a_finding_and_the_old_value_stays(
    long_list: Store, green: Store, greenfly: Greenfly
) -> None:
    green.client.set("k", "old")
    with Proxy(
        long_list.url, once(SECOND_PIECE, lambda: long_list.client.rpush("k", "more"), times=3)
    ) as proxy:
        run = migrate(greenfly, proxy.url, green.url, "--conflict", "replace", env=IN_PIECES)

    assert run.exit_code == 1
    assert findings(run) == [("refused", "open", 0, b"k"), ("type", "open", 0, b"k")]
    assert green.client.get("k") == b"old"


@pytest.mark.parametrize("new", ["string", "big set"])
def test_a_big_key_that_becomes_another_type_while_it_is_read_arrives_as_that(
    long_list: Store, green: Store, greenfly: Greenfly, new: str
) -> None:
    def turn() -> None:
        long_list.client.delete("k")
        if new == "string":
            long_list.client.set("k", "v")
        else:
            long_list.client.sadd("k", *range(1000))

    with Proxy(long_list.url, once(SECOND_PIECE, turn)) as proxy:
        run = migrate(greenfly, proxy.url, green.url, env=IN_PIECES)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert oracle.compare(long_list.url, green.url) == []


# -- a target that is full ---------------------------------------------------------------------------------------------


def assert_old_value_survives_a_full_target(blue: Store, full: Store, greenfly: Greenfly) -> None:
    blue.client.rpush("k", *(b"%04d" % n + b"x" * 4000 for n in range(8000)))
    run = migrate(greenfly, blue.url, full.url, "--conflict", "replace")

    assert (run.exit_code, run.at("error", "kind")) == (25, "ServerFull"), run.stderr
    assert all_keys(full) == {(0, b"k")}
    assert full.client.lrange("k", 0, -1) == [b"old"]


def test_a_redis_that_runs_full_in_the_middle_keeps_the_old_value(
    blue: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    full = start_redis("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    full.client.rpush("k", "old")

    assert_old_value_survives_a_full_target(blue, full, greenfly)


@pytest.mark.dragonfly
def test_a_dragonfly_that_runs_full_in_the_middle_keeps_the_old_value(
    blue: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly
) -> None:
    full = start_dragonfly()
    full.client.rpush("k", "old")
    full.client.config_set("maxmemory", "20mb")

    assert_old_value_survives_a_full_target(blue, full, greenfly)
