"""What the checks about keys find on real servers, and what they do not claim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from integrity.assess.checks_data import CHECKS
from integrity.assess.model import Outcome, Severity
from integrity.assess.runner import make_checks
from integrity.strategy import Strategy
from tests.census import check, subject_of
from tests.conftest import StartServer
from tests.fencing import programs
from tests.raw import Raw
from tests.servers import Store

BLOCKING, WARNING, INFO = Severity.BLOCKING, Severity.WARNING, Severity.INFO
COPY, NATIVE = Strategy.COPY, Strategy.NATIVE
FOUND, PASSED, UNKNOWN, NOT_APPLICABLE = (
    Outcome.FOUND,
    Outcome.PASSED,
    Outcome.UNKNOWN,
    Outcome.NOT_APPLICABLE,
)
SAMPLE = {"sample_keys": 1000}


@pytest.fixture(scope="module")
def with_field_expiries() -> Iterator[str]:
    """A Redis whose hash fields can expire, holding one that does and one of which a field once did."""
    program = next((p for p in programs() if p.engine == "redis" and p.version >= (7, 4)), None)
    if program is None:
        pytest.skip("no Redis 7.4 or newer (GREENFLY_TEST_MORE_SERVERS)")
    with ExitStack() as stack:
        running = stack.enter_context(program.start())
        raw = stack.enter_context(Raw(running.url))
        for name in ("live", "former"):
            raw("HSET", name, "a", 1, "b", 2)
            raw("HPEXPIRE", name, 900_000, "FIELDS", 1, "a")
        raw("HPERSIST", "former", "FIELDS", 1, "a")
        yield running.url


def many(store: Store, keys: int = 5000) -> None:
    """More keys than the sample of these tests."""
    store.client.mset({f"k:{number}": number for number in range(keys)})


# -- types -------------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
@pytest.mark.parametrize("strategy", [COPY, NATIVE])
def test_types_that_the_target_does_not_have_block(
    green_dragonfly: Store, blue: Store, strategy: Strategy
) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("JSON.SET", "document", "$", '{"b": 1, "a": 2}')
        raw("BF.ADD", "filter", "x")
        raw("SET", "k", "v")
    result = check(subject_of(green_dragonfly.url, blue.url, strategy), "types")

    assert result.blocks
    assert result.items == ("MBbloom--", "ReJSON-RL")
    assert result.remedy


@pytest.mark.dragonfly
def test_a_type_that_the_rules_leave_out_does_not_block(green_dragonfly: Store, blue: Store) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("BF.ADD", "filter", "x")
        raw("SET", "k", "v")
    subject = subject_of(green_dragonfly.url, blue.url, rules={"exclude_types": ["MBbloom--"]})
    result = check(subject, "types")

    assert result.outcome is PASSED
    assert result.evidence["excluded"] == {"type MBbloom--": 1}


@pytest.mark.dragonfly
def test_json_is_no_foreign_type_for_a_target_that_has_it(
    green_dragonfly: Store, start_dragonfly: StartServer
) -> None:
    target = start_dragonfly()
    with Raw(green_dragonfly.url) as raw:
        raw("JSON.SET", "document", "$", '{"b": 1, "a": 2}')
    subject = subject_of(green_dragonfly.url, target.url)

    assert check(subject, "types").outcome is PASSED
    assert check(subject, "json").severity is INFO
    assert check(subject, "json").outcome is FOUND


def test_a_sample_does_not_prove_that_something_is_absent(blue: Store, green_redis: Store) -> None:
    many(blue)
    sampled = check(subject_of(blue.url, green_redis.url, full=False, assess=SAMPLE), "types")
    full = check(subject_of(blue.url, green_redis.url), "types")

    assert sampled.outcome is full.outcome is PASSED
    assert sampled.evidence["unseen_at_most"] in range(10, 16)
    assert "unseen_at_most" not in full.evidence


# -- expiries of hash fields -------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
@pytest.mark.parametrize(
    ("strategy", "live", "former"), [(COPY, WARNING, INFO), (NATIVE, BLOCKING, BLOCKING)]
)
def test_hashes_whose_fields_expire_or_did_stop_the_native_road_alone(
    with_field_expiries: str, green_dragonfly: Store, strategy: Strategy, live: Severity, former: Severity
) -> None:
    subject = subject_of(with_field_expiries, green_dragonfly.url, strategy)
    now, once = check(subject, "field-expiry"), check(subject, "formerly-field-expiry")

    assert (now.outcome, now.severity) == (FOUND, live)
    assert (once.outcome, once.severity) == (FOUND, former)
    assert [key["key"] for key in _list(once.evidence["examples"])] == ["former"]


def test_expiring_fields_block_the_way_to_a_target_that_does_not_know_them(
    with_field_expiries: str, green_redis: Store
) -> None:
    assert check(subject_of(with_field_expiries, green_redis.url), "field-expiry").blocks


def test_without_the_right_to_ask_for_encodings_the_native_road_is_blocked(
    with_field_expiries: str, green_redis: Store
) -> None:
    with Raw(with_field_expiries) as raw:
        raw("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all", "-object")
        url = with_field_expiries.replace("://", "://limited:secret@")
        result = check(subject_of(url, green_redis.url, NATIVE), "formerly-field-expiry")
        raw("ACL", "DELUSER", "limited")

    assert result.outcome is UNKNOWN
    assert result.blocks


def test_a_source_without_expiring_fields_has_none(blue: Store, green_redis: Store) -> None:
    many(blue, 10)
    subject = subject_of(blue.url, green_redis.url, NATIVE)

    assert check(subject, "field-expiry").outcome is NOT_APPLICABLE
    assert check(subject, "formerly-field-expiry").outcome is NOT_APPLICABLE


@pytest.mark.dragonfly
def test_a_source_that_does_not_count_expiring_fields_is_not_said_to_have_none(
    green_dragonfly: Store, blue: Store
) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("HSETEX", "h", "EX", 900, "FIELDS", 1, "a", "1")
    result = check(subject_of(green_dragonfly.url, blue.url), "field-expiry")

    assert result.outcome is UNKNOWN
    assert result.blocks  # Redis 7.0 does not know them.


# -- expiries of keys --------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
@pytest.mark.parametrize("strategy", [COPY, NATIVE])
def test_expiries_beyond_the_limit_of_dragonfly_are_a_warning(
    blue: Store, green_dragonfly: Store, strategy: Strategy
) -> None:
    blue.client.set("far", "v", ex=10 * 365 * 24 * 3600)
    blue.client.set("near", "v", ex=8 * 365 * 24 * 3600)
    result = check(subject_of(blue.url, green_dragonfly.url, strategy), "expiry-limit")

    assert (result.outcome, result.severity) == (FOUND, WARNING)
    assert result.evidence["keys"] == 1


def test_redis_has_no_limit_on_expiries(blue: Store, green_redis: Store) -> None:
    blue.client.set("far", "v", ex=10 * 365 * 24 * 3600)

    assert check(subject_of(blue.url, green_redis.url), "expiry-limit").outcome is NOT_APPLICABLE


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_a_string_beyond_the_targets_limit_blocks(blue: Store, start_redis: StartServer) -> None:
    target = start_redis("--proto-max-bulk-len", "1mb")
    blue.client.mset({"short": b"x" * (1 << 20), "long": b"x" * ((1 << 20) + 1)})
    result = check(subject_of(blue.url, target.url), "string-limit")

    assert result.blocks
    assert result.evidence["limit_bytes"] == 1 << 20
    assert [key["key"] for key in _list(result.evidence["longest"])] == ["long"]


def test_a_value_that_may_hold_an_element_beyond_the_limit_is_a_warning(
    blue: Store, start_redis: StartServer
) -> None:
    target = start_redis("--proto-max-bulk-len", "1mb")
    blue.client.rpush("list", *[b"x" * 1000] * 2000)

    assert check(subject_of(blue.url, target.url), "string-limit").severity is WARNING


def test_where_the_limit_may_not_be_asked_the_default_counts(blue: Store, green_redis: Store) -> None:
    many(blue, 10)
    with Raw(green_redis.url) as raw:
        raw("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all", "-config")
        url = green_redis.url.replace("://", "://limited:secret@")
        result = check(subject_of(blue.url, url), "string-limit")
        raw("ACL", "DELUSER", "limited")

    assert result.outcome is PASSED
    assert result.evidence["limit_bytes"] == 512 << 20


def test_big_keys_are_a_warning(blue: Store, green_redis: Store) -> None:
    subject = subject_of(blue.url, green_redis.url)
    blue.client.set("k", "v")
    assert check(subject, "big-keys").outcome is PASSED
    blue.client.setrange("big", 65 << 20, b"x")
    result = check(subject_of(blue.url, green_redis.url), "big-keys")

    assert (result.outcome, result.severity) == (FOUND, WARNING)
    assert _list(result.evidence["biggest"])[0]["key"] == "big"


@pytest.mark.parametrize(("size", "severity"), [(10, INFO), (2 << 20, WARNING)])
def test_a_hot_key_is_a_warning_where_it_is_big(
    start_redis: StartServer, green_redis: Store, size: int, severity: Severity
) -> None:
    source = start_redis("--maxmemory-policy", "allkeys-lfu", "--lfu-log-factor", "0")
    source.client.mset({"hot": b"x" * size, "cold": "v"})
    for _ in range(200):
        source.client.strlen("hot")
    result = check(subject_of(source.url, green_redis.url), "hot-keys")

    assert (result.outcome, result.severity) == (FOUND, severity)
    assert _list(result.evidence["hottest"])[0]["key"] == "hot"


def test_heat_that_is_not_counted_is_not_said_to_be_none(blue: Store, green_redis: Store) -> None:
    many(blue, 10)

    assert check(subject_of(blue.url, green_redis.url), "hot-keys").outcome is NOT_APPLICABLE


@pytest.mark.parametrize(("length", "outcome"), [(1024, PASSED), (1025, FOUND)])
def test_long_names_are_told(blue: Store, green_redis: Store, length: int, outcome: Outcome) -> None:
    blue.client.set("n" * length, "v")

    assert check(subject_of(blue.url, green_redis.url), "key-names").outcome is outcome


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_what_dragonfly_forgets_of_groups_is_a_warning(blue: Store, green_dragonfly: Store) -> None:
    blue.client.xadd("s", {"f": "v"})
    subject = subject_of(blue.url, green_dragonfly.url)
    assert check(subject, "streams").outcome is PASSED
    blue.client.xgroup_create("s", "g", "0")
    assert check(subject_of(blue.url, green_dragonfly.url), "streams").severity is INFO
    blue.client.xreadgroup("g", "c", {"s": ">"})
    result = check(subject_of(blue.url, green_dragonfly.url), "streams")

    assert (result.outcome, result.severity) == (FOUND, WARNING)


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_a_database_that_the_target_lacks_blocks_unless_it_is_mapped(
    start_redis: StartServer, green_dragonfly: Store
) -> None:
    source = start_redis("--databases", "32")
    source.database(20).set("k", "v")
    source.database(3).set("k", "v")
    result = check(subject_of(source.url, green_dragonfly.url), "databases")
    mapped = {"databases": {"20": 4}}

    assert result.blocks
    assert result.items == ("database 20",)
    assert check(subject_of(source.url, green_dragonfly.url, rules=mapped), "databases").outcome is PASSED
    # Replication carries every database as it is.
    assert check(subject_of(source.url, green_dragonfly.url, NATIVE, rules=mapped), "databases").blocks


def test_a_key_under_the_name_of_the_sentinel_is_told_on_the_native_road(
    blue: Store, green_redis: Store
) -> None:
    many(blue, 10)
    subject = subject_of(blue.url, green_redis.url, NATIVE)
    assert check(subject, "sentinel-key").outcome is PASSED
    blue.database(5).set("greenfly:sentinel", "mine")
    result = check(subject_of(blue.url, green_redis.url, NATIVE), "sentinel-key")

    assert (result.outcome, result.severity) == (FOUND, Severity.WARNING)
    assert result.evidence["databases"] == [5]
    assert check(subject_of(blue.url, green_redis.url, COPY), "sentinel-key").outcome is NOT_APPLICABLE


@pytest.mark.parametrize(
    ("policy", "severity"),
    [
        ("fail", BLOCKING),
        ("skip", WARNING),
        ("replace", WARNING),
    ],
)
def test_keys_on_the_target_block_unless_they_may_go(
    blue: Store, green_redis: Store, policy: str, severity: Severity
) -> None:
    many(blue, 10)
    assert check(subject_of(blue.url, green_redis.url), "target-holds-keys").outcome is PASSED
    green_redis.database(7).set("k", "v")
    subject = subject_of(blue.url, green_redis.url, copy={"conflict": policy})
    result = check(subject, "target-holds-keys")

    assert (result.outcome, result.severity) == (FOUND, severity)


def test_nothing_to_move_is_a_warning(blue: Store, green_redis: Store) -> None:
    assert check(subject_of(blue.url, green_redis.url), "empty").severity is WARNING
    many(blue, 10)
    assert check(subject_of(blue.url, green_redis.url), "empty").outcome is PASSED
    nothing = subject_of(blue.url, green_redis.url, rules={"exclude": ["*"]})

    assert check(nothing, "empty").severity is WARNING


# -- all ---------------------------------------------------------------------------------------------------------------


def test_one_census_serves_all_checks(blue: Store, green_redis: Store) -> None:
    many(blue, 100)
    subject = subject_of(blue.url, green_redis.url)
    before = blue.client.info("commandstats")["cmdstat_type"]["calls"] if _asked(blue) else 0
    results = make_checks(subject, CHECKS)
    after = blue.client.info("commandstats")["cmdstat_type"]["calls"]

    assert [result.check for result in results] == [each.id for each in CHECKS]
    assert not [result for result in results if result.outcome is UNKNOWN]
    assert after - before == 100


def _asked(store: Store) -> bool:
    return "cmdstat_type" in store.client.info("commandstats")


def _list(value: object) -> list[dict[str, object]]:
    assert isinstance(value, list)
    return value
