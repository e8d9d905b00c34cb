"""A census of real servers, held against what the server says of each key alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from integrity.census.plan import Stretch, cursor_at
from integrity.census.questions import Questions
from integrity.census.walk import Walker
from integrity.errors import PermissionRefused
from integrity.pace import FullSpeed
from tests.census import census_of
from tests.conftest import StartServer
from tests.engine import endpoint
from tests.fencing import each_program
from tests.matrix.servers import Program
from tests.proxy import Proxy
from tests.raw import Raw, as_bytes, as_int
from tests.servers import Store, connect

YEAR_MS = 365 * 24 * 3600 * 1000


@pytest.fixture(params=each_program())
def each_server(request: pytest.FixtureRequest) -> Iterator[tuple[Program, str, Redis]]:
    """An empty server of each program in turn: the program, its URL, a client."""
    program: Program = request.param
    with program.start() as running, connect(running.url) as client:
        yield program, running.url, client


def fill(client: Redis, keys: int) -> None:
    """A tenth are hashes, the others strings; every fourth expires."""
    pipe = client.pipeline(transaction=False)
    for number in range(keys):
        if number % 10:
            pipe.set(f"s:{number}", "v" * (number % 200))
        else:
            pipe.hset(f"h:{number}", mapping={"a": 1, "b": "x" * (number % 90)})
        if number % 4 == 0:
            pipe.pexpire(f"{'s' if number % 10 else 'h'}:{number}", YEAR_MS // 2)
    pipe.execute()


def test_every_key_is_counted_as_the_server_tells_of_it(blue: Store) -> None:
    fill(blue.client, 1000)
    other = blue.database(3)
    other.rpush("l", *range(2000))
    other.zadd("z", {"a": 1})
    other.sadd("i", 1, 2, 3)
    other.xadd("s", {"f": "v"})
    census = census_of(blue.url, full=True)

    types: Counter[str] = Counter()
    encodings: Counter[str] = Counter()
    size = expiring = 0
    for number in (0, 3):
        with Raw(blue.url, number) as raw:
            for key in sorted(raw.keys()):
                kind = as_bytes(raw("TYPE", key)).decode()
                types[kind] += 1
                encodings[f"{kind}/{as_bytes(raw('OBJECT', 'ENCODING', key)).decode()}"] += 1
                size += as_int(raw("MEMORY", "USAGE", key))
                expiring += as_int(raw("PTTL", key)) >= 0
    assert census.full
    assert census.keys_looked_at == census.keys_present == 1004
    assert census.types == types
    assert census.encodings == encodings
    assert sum(census.bytes_by_type.values()) == size
    assert census.expiries["<=1 year"] == expiring == 250
    assert census.expiries["none"] == 1004 - 250
    assert sum(census.sizes.values()) == 1004
    assert census.unseen_at_most == 0
    assert {n: seen.whole for n, seen in census.databases.items()} == {0: True, 3: True}


def test_a_census_changes_nothing_and_is_no_use_of_a_key_that_is_not_listed(blue: Store) -> None:
    blue.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        blue.client.mset({"k": "v", "listed": "v" * 100})
        sleep(1.1)
        before = blue.client.object("IDLETIME", "k")
        written = blue.client.info("persistence")["rdb_changes_since_last_save"]
        census_of(blue.url, full=True, assess={"listed_keys": 1})
        assert blue.client.object("IDLETIME", "k") >= before >= 1
        assert blue.client.info("persistence")["rdb_changes_since_last_save"] == written
    finally:
        blue.client.config_set("maxmemory-policy", "noeviction")


# -- samples -----------------------------------------------------------------------------------------------------------


def test_a_sample_is_fair_on_every_server(each_server: tuple[Program, str, Redis]) -> None:
    program, url, client = each_server
    fill(client, 20_000)
    census = census_of(url, assess={"sample_keys": 4000})

    assert not census.full
    assert 4000 <= census.keys_looked_at <= 5200  # A page may bring more than was asked for.
    # Six standard deviations; every key is there once.
    assert census.types["hash"] / census.keys_looked_at == pytest.approx(0.1, abs=0.03)
    assert (census.expiries["none"] / census.keys_looked_at) == pytest.approx(0.75, abs=0.045)
    assert sum(census.types.values()) == census.keys_looked_at
    assert 10 <= census.unseen_at_most <= 14
    assert bool(census.encodings) == (program.engine != "dragonfly")


def test_samples_differ(blue: Store) -> None:
    fill(blue.client, 20_000)
    first, second = (census_of(blue.url, seed=n, assess={"sample_keys": 1000}) for n in (1, 2))

    assert {fact.key for fact in first.big} != {fact.key for fact in second.big}


def test_databases_are_sampled_in_proportion_and_a_small_one_whole(blue: Store) -> None:
    fill(blue.client, 12_000)
    fill(blue.database(1), 4000)
    fill(blue.database(2), 7)
    census = census_of(blue.url, assess={"sample_keys": 2000})

    seen = census.databases
    assert seen[2].whole
    assert seen[2].looked_at == 7
    assert not seen[0].whole
    assert seen[0].looked_at / seen[1].looked_at == pytest.approx(3, rel=0.25)


def test_a_sample_of_no_more_keys_than_there_are_proves_what_is_absent(blue: Store) -> None:
    fill(blue.client, 150)
    census = census_of(blue.url, assess={"sample_keys": 150})

    assert census.full
    assert census.unseen_at_most == 0
    assert census.types == {"string": 135, "hash": 15}


@pytest.mark.parametrize("sample_keys", [20_000, 50_000], ids=["some", "all"])
def test_time_ends_a_sample_and_the_bound_says_so(blue: Store, sample_keys: int) -> None:
    for number in range(4):
        fill(blue.database(number), 6000)
    census = census_of(blue.url, assess={"sample_seconds": 0.02, "sample_keys": sample_keys})

    assert not census.full
    assert 0 < census.keys_looked_at < 20_000
    assert census.unseen_at_most > 0
    assert "sample_seconds" in census.method


def test_a_server_with_cursors_of_its_own_is_read_from_the_beginning(blue: Store) -> None:
    fill(blue.client, 5000)

    def refuse_long_cursors(data: bytes) -> tuple[bytes, bool]:
        for digits in range(10, 21):
            head = b"SCAN\r\n$%d\r\n" % digits
            while (at := data.find(head)) >= 0 and data[at + len(head) : at + len(head) + 1] != b"x":
                place = at + len(head)
                data = data[:place] + b"x" + data[place + 1 :]
        return data, False

    with Proxy(blue.url, refuse_long_cursors) as proxy:
        census = census_of(proxy.url, assess={"sample_keys": 2000})

    assert 2000 <= census.keys_looked_at <= 3000
    assert not census.full
    assert "takes no other cursors" in census.method


def test_stretches_that_overlap_bring_no_key_twice(blue: Store) -> None:
    fill(blue.client, 3000)
    seen: list[bytes] = []
    with endpoint("source", blue.url).connect("test") as connection:
        walker = Walker(
            connection,
            Questions.of(connection, sizes=True, heat=False),
            FullSpeed(100),
            lambda database, keys, columns: seen.extend(keys),
            remember=True,
        )
        walker.walk([Stretch(0), Stretch(0, cursor_at(0.5), quota=2000, wraps=True)], float("inf"))

    assert len(seen) == len(set(seen)) == 3000


# -- what stands out ---------------------------------------------------------------------------------------------------


def test_the_biggest_and_the_longest_are_named(blue: Store) -> None:
    fill(blue.client, 500)
    blue.client.rpush("big", *(b"x" * 100 for _ in range(3000)))
    blue.client.set("long", b"y" * 100_000)
    census = census_of(blue.url, full=True, assess={"listed_keys": 3})

    assert [(fact.key, fact.kind, fact.elements) for fact in census.big[:2]] == [
        (b"big", "list", 3000),
        (b"long", "string", 100_000),
    ]
    assert census.big[0].bytes == blue.client.memory_usage("big")
    assert (census.longest[0].key, census.longest[0].elements) == (b"long", 100_000)
    assert len(census.big) == len(census.longest) == 3


def test_hot_keys_are_known_where_the_server_counts(start_redis: StartServer) -> None:
    store = start_redis("--maxmemory-policy", "allkeys-lfu", "--maxmemory", "100mb")
    fill(store.client, 300)
    store.client.set("hot", "v")
    pipe = store.client.pipeline(transaction=False)
    for _ in range(20_000):
        pipe.get("hot")
    pipe.execute()
    census = census_of(store.url, full=True)

    assert census.hot[0].key == b"hot"
    assert census.hot[0].heat == store.client.object("FREQ", "hot")
    assert census.hot[0].bytes == store.client.memory_usage("hot")
    assert census.hot[0].heat > census.hot[1].heat


def test_heat_is_said_to_be_unknown_where_the_server_does_not_count(blue: Store) -> None:
    fill(blue.client, 10)
    census = census_of(blue.url, full=True)

    assert census.hot == ()
    assert "noeviction" in census.hot_method


def test_keys_that_the_rules_leave_out_are_counted_apart(blue: Store) -> None:
    fill(blue.client, 200)
    census = census_of(blue.url, full=True, rules={"exclude_types": ["hash"]})

    assert census.excluded == {"type hash": 20}
    assert census.types == {"string": 180}
    assert census.keys_looked_at == 200


def test_streams_with_groups_are_counted(blue: Store) -> None:
    client = blue.client
    for name in ("plain", "grouped", "read"):
        client.xadd(name, {"f": "v"})
    client.xgroup_create("grouped", "g", "$")
    client.xgroup_create("read", "g", "0")
    client.xreadgroup("g", "c", {"read": ">"})
    census = census_of(blue.url, full=True)

    assert census.types == {"stream": 3}
    assert census.stream_groups == 2
    assert census.stream_entries_read == 1


def test_expiries_beyond_what_dragonfly_keeps_are_counted(blue: Store) -> None:
    blue.client.set("near", "v", ex=268_435_400)
    blue.client.set("far", "v", ex=268_435_500)
    census = census_of(blue.url, full=True)

    assert census.beyond_expiry == 1
    assert [fact.key for fact in census.beyond_expiry_examples] == [b"far"]


def test_hashes_made_for_expiring_fields_are_told_apart(each_server: tuple[Program, str, Redis]) -> None:
    program, url, client = each_server
    with Raw(url) as raw:
        if isinstance(raw.many([("HPERSIST", "none", "FIELDS", 1, "f")])[0], ResponseError):
            pytest.skip("its hash fields do not expire, or not for good")
        client.hset("plain", mapping={"a": 1})
        for name in ("live", "former", "passed"):
            client.hset(name, mapping={"a": 1, "b": 2})
            raw("HPEXPIRE", name, 300 if name == "passed" else 900_000, "FIELDS", 1, "a")
        raw("HPERSIST", "former", "FIELDS", 1, "a")
        client.hset("large", mapping={f"f{n}": n for n in range(1000)})
        raw("HPEXPIRE", "large", 900_000, "FIELDS", 1, "f1")
    sleep(1.5)  # The server's own count forgets what is over only by and by.
    census = census_of(url, full=True)

    with Raw(url) as raw:
        forms = {name: as_bytes(raw("DUMP", name))[0] for name in ("live", "former", "passed", "large")}
    examples = {fact.key for fact in census.field_expiry_former_examples}
    assert census.field_expiry_told is not None
    assert census.field_expiry_told >= 2
    if program.engine == "redis":
        assert list(forms.values()) == [25, 25, 25, 24]
        assert (census.field_expiry_hashes, census.field_expiry_live, census.field_expiry_former) == (3, 1, 2)
        assert examples == {b"former", b"passed"}
    else:
        assert list(forms.values()) == [22, 4, 4, 22]
        assert census.field_expiry_told == 2
        assert census.field_expiry_hashes == 0


# -- rights ------------------------------------------------------------------------------------------------------------


@contextmanager
def limited(blue: Store, *rules: str) -> Iterator[str]:
    """The URL of a user that may do this."""
    with Raw(blue.url) as raw:
        raw("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", *rules)
        yield blue.url.replace("://", "://limited:secret@")
        raw("ACL", "DELUSER", "limited")


def test_a_user_that_may_not_ask_for_sizes_and_encodings_still_gets_a_census(blue: Store) -> None:
    fill(blue.client, 100)
    with limited(blue, "+@all", "-memory", "-object") as url:
        census = census_of(url, full=True)

    assert census.types == {"string": 90, "hash": 10}
    assert census.encodings == {}
    assert not census.sizes_told
    assert census.longest[0].elements == 99


def test_a_user_that_may_not_ask_for_types_gets_none(blue: Store) -> None:
    fill(blue.client, 100)
    with limited(blue, "+@all", "-type") as url, pytest.raises(PermissionRefused):
        census_of(url, full=True)
