"""What the checks about servers work out without asking one."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

from integrity.assess.acl_line import COPY_PARTS, LIVE_PARTS, least_privilege
from integrity.assess.checks_time import RoundTrips
from integrity.assess.memory import key_bytes
from integrity.assess.needed_rights import RunPart, Side, rights
from integrity.assess.rights_probe import Answer, Tried
from integrity.assess.versions import rdb_version_of, version_of
from integrity.assess.way_back import ways_back
from integrity.endpoint import Identity

SIDES: Final[tuple[Side, ...]] = ("source", "target")
ENGINES: Final = ("redis", "valkey", "dragonfly")


def identity(engine: str, version: str) -> Identity:
    """A server of that version."""
    return Identity(
        address="redis://h:1",
        engine=engine,
        version=version,
        run_id="r",
        role="master",
        mode="standalone",
        used_memory=1,
        max_memory=0,
        databases={},
        has_pexpiretime=True,
        field_expiries="none",
        observed_at=datetime.now(UTC),
    )


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "version", "rdb"),
    [
        ("redis", "5.0.14", 9),
        ("redis", "6.2.5", 9),
        ("redis", "7.0.15", 10),
        ("redis", "7.2.2", 11),
        ("redis", "7.4.1", 12),
        ("redis", "8.2.3", 12),
        ("redis", "8.6.0", 13),
        ("redis", "unknown", None),
        ("valkey", "8.0.1", 11),
        ("valkey", "9.1.2", 80),
        ("dragonfly", "1.40.1", 9),
    ],
)
def test_versions_write_the_rdb_versions_that_they_are_known_for(
    engine: str, version: str, rdb: int | None
) -> None:
    assert rdb_version_of(identity(engine, version)) == rdb


def test_a_version_that_cannot_be_read_is_older_than_all() -> None:
    assert version_of("unknown") == (0, 0)
    assert version_of("7.x") == (7, 0)
    assert version_of("10.2.1") > version_of("9.9")


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", SIDES)
def test_a_copy_is_given_less_than_a_whole_move(side: Side, engine: str) -> None:
    copying, whole = (
        set(shlex.split(least_privilege(side, parts, engine))) for parts in (COPY_PARTS, LIVE_PARTS)
    )
    assert copying < whole
    assert not {"+@all", "+acl|setuser", "+acl setuser", "+client|kill", "+monitor"} & copying


@pytest.mark.parametrize("engine", ENGINES)
def test_the_source_is_never_given_a_right_to_write(engine: str) -> None:
    line = shlex.split(least_privilege("source", (*LIVE_PARTS, RunPart.NATIVE), engine))
    writing = {
        "set",
        "mset",
        "del",
        "unlink",
        "restore",
        "rename",
        "hset",
        "rpush",
        "xadd",
        "flushall",
        "@write",
    }
    assert not {f"+{name}" for name in writing} & set(line)


def test_dragonfly_is_given_its_own_forms() -> None:
    text = least_privilege("target", LIVE_PARTS, "dragonfly")
    words = shlex.split(text)
    assert "+acl setuser" in words
    assert not [word for word in words if "|" in word or word in {"reset", "+debug"}]
    assert "'+acl setuser'" in text


def test_commands_that_a_server_lacks_or_has_a_better_one_for_are_left_out() -> None:
    old = shlex.split(least_privilege("source", COPY_PARTS, "redis", {"get", "pttl"}))
    assert old[-2:] == ["+pttl", "+get"]
    new = shlex.split(least_privilege("source", COPY_PARTS, "redis", {"get", "pttl", "pexpiretime"}))
    assert new[-2:] == ["+pexpiretime", "+get"]


def test_a_right_that_any_part_needs_is_needed() -> None:
    alone = {right.command: right for right in rights("source", [RunPart.COPY], "redis")}
    whole = {right.command: right for right in rights("source", LIVE_PARTS, "redis")}
    assert not alone["client|setname"].needed
    assert whole["client|setname"].needed


def test_what_is_lacking_is_what_is_refused_or_unknown_without_another() -> None:
    wanted = {right.command: right for right in rights("target", [RunPart.COPY], "redis")}
    some = [wanted[name] for name in ("set", "append", "pttl", "json.set", "restore")]
    answers = {
        "set": Answer.REFUSED,
        "append": Answer.UNKNOWN_COMMAND,
        "pttl": Answer.REFUSED,
        "pexpiretime": Answer.ALLOWED,
        "json.set": Answer.UNKNOWN_COMMAND,
    }
    tried = Tried(answers, Answer.ALLOWED)
    assert [right.command for right in tried.lacking(some)] == ["set", "append"]
    assert [right.command for right in tried.untold(some)] == ["restore"]
    without = Tried(answers | {"pexpiretime": Answer.UNKNOWN_COMMAND}, Answer.ALLOWED)
    assert "pttl" in [right.command for right in without.lacking(some)]


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "version", "known", "streams", "fields", "json"),
    [
        ("redis", "6.2.5", "", "partly", "not", "not"),
        ("redis", "7.0.15", "", "partly", "not", "not"),
        ("redis", "7.4.1", "hpexpireat", "whole", "whole", "not"),
        ("redis", "8.2.3", "hpexpireat json.set", "whole", "whole", "whole"),
        ("valkey", "8.0.1", "", "whole", "not", "not"),
        ("valkey", "9.1.2", "hpexpireat", "whole", "whole", "not"),
    ],
)
def test_what_comes_back_from_dragonfly_is_what_the_matrix_shows(
    engine: str, version: str, known: str, streams: str, fields: str, json: str
) -> None:
    ways = ways_back(identity("dragonfly", "1.40.1"), identity(engine, version), known.split())
    carried = {way.kind: way.carried for way in ways}
    assert (carried["streams"], carried["expiries of hash fields"], carried["JSON"]) == (
        streams,
        fields,
        json,
    )
    assert carried["expiries of set members"] == "not"
    assert all(way.lost for way in ways if way.carried != "whole")


def test_a_kind_is_in_use_by_its_own_commands_alone() -> None:
    ways = {w.kind: w for w in ways_back(identity("dragonfly", "1.40.1"), identity("redis", "6.2.5"), ())}
    used = {"xgroup", "xadd", "json.set", "hpexpiretime", "bf.add", "set"}
    assert ways["streams"].uses(used) == ["xgroup"]
    assert ways["JSON"].uses(used) == ["json.set"]
    assert ways["expiries of hash fields"].uses(used) == []
    assert ways["strings, bitmaps, HyperLogLogs"].uses(used) == []


def test_two_redis_of_one_version_lose_nothing_of_streams() -> None:
    same = identity("redis", "7.0.15")
    newer = replace(same, version="8.2.3")
    assert {w.kind: w.carried for w in ways_back(same, same, ())}["streams"] == "whole"
    assert {w.kind: w.carried for w in ways_back(newer, same, ())}["streams"] == "partly"
    assert {w.kind: w.carried for w in ways_back(same, newer, ())}["streams"] == "whole"


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_what_keys_use_leaves_out_what_is_there_without_them() -> None:
    info = {
        "used_memory": "1000",
        "used_memory_startup": "300",
        "mem_clients_normal": "100",
        "mem_aof_buffer": "x",
    }
    assert key_bytes(info) == 600
    assert key_bytes({"used_memory": "10", "used_memory_startup": "300"}) == 0


def test_percentiles_are_of_what_was_seen() -> None:
    trips = RoundTrips(tuple(float(n) for n in range(100)))
    assert (trips.at(0.5), trips.at(0.99)) == (50.0, 99.0)
    assert RoundTrips((7.0,)).at(0.99) == 7.0
