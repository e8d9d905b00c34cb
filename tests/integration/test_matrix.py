"""The matrix between the servers on PATH: every cell is right, and damage to the target would not stay unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from time import time

import pytest

from greenfly.demo.servers import RunningServer, find_dragonfly, find_redis_server
from integrity.endpoint import Endpoint
from integrity.kinds import HASH
from integrity.kinds.pieces import Piece
from integrity.replies import ErrorReply
from integrity.settings import load_settings
from tests.matrix.cases import CASES
from tests.matrix.facets import Reader
from tests.matrix.judge import judge
from tests.matrix.loader import load_cases
from tests.matrix.pair import migrate_pair
from tests.matrix.run import Pair, run_pair
from tests.matrix.servers import Program, Server, read_programs
from tests.raw import Raw, as_int, as_list


@pytest.fixture(scope="module")
def redis() -> Program:
    path = find_redis_server()
    if path is None:
        pytest.skip("no redis-server on PATH")
    return read_programs([path])[0]


@pytest.fixture(scope="module")
def dragonfly() -> Program:
    path = find_dragonfly()
    if path is None:
        pytest.skip("no dragonfly on PATH")
    return read_programs([path])[0]


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, program: Program) -> Server:
    running: RunningServer = stack.enter_context(program.start())
    return Server.of(program, running)


def moved(stack: ExitStack, source: Program, target: Program) -> Pair:
    blue, green = started(stack, source), started(stack, target)
    return run_pair(blue, green, load_cases(blue, CASES))


def test_between_two_redis(servers: ExitStack, redis: Program) -> None:
    pair = moved(servers, redis, redis)
    assert pair.problems == []
    assert sum(cell.passed for cell in pair.cells.values()) > 45


@pytest.mark.dragonfly
def test_into_dragonfly(servers: ExitStack, redis: Program, dragonfly: Program) -> None:
    pair = moved(servers, redis, dragonfly)
    assert pair.problems == []
    assert pair.cells["expiry/10 years"].expected


@pytest.mark.dragonfly
def test_back_from_dragonfly(servers: ExitStack, redis: Program, dragonfly: Program) -> None:
    pair = moved(servers, dragonfly, redis)
    assert pair.problems == []
    details = [finding.detail for finding in pair.cells["JSON/scalar"].findings]
    assert any("JSON.SET" in detail for detail in details)
    assert not any("text" in detail for detail in details), "a finding tells of the value"
    for case in ("set/member expiry (SADDEX)", "set/member expiry (SADDEX) in pieces"):
        assert [finding.name for finding in pair.cells[case].findings] == ["not-carried"]


def test_damage_that_greenfly_did_not_report_is_seen(servers: ExitStack, redis: Program) -> None:
    blue, green = started(servers, redis), started(servers, redis)
    cases = {case.name: case for case in load_cases(blue, CASES)}
    told = migrate_pair(blue, green)
    damage = {
        "hash/small": (b"HSET", b"hash/small", b"n", b"-2"),
        "zset/geo": (b"ZREM", b"zset/geo", b"Palermo"),
        "stream/plain": (b"XSETID", b"stream/plain", b"999999-0"),
        "expiry/40 days": (b"PERSIST", b"expiry/40 days"),
        "list/one element": (b"DEL", b"list/one element"),
    }
    with Raw(green.url) as raw:
        for command in damage.values():
            raw(*command)
    with Reader(blue) as ours, Reader(green) as theirs:
        wrong = {
            name
            for name, case in cases.items()
            if judge(case, blue, green, told, ours.facts(case.place), theirs.facts(case.place)).wrong
        }
    assert wrong == set(damage)


@pytest.mark.dragonfly
def test_field_expiries_that_dragonfly_would_refuse(servers: ExitStack, dragonfly: Program) -> None:
    """One that passed meanwhile takes its field away, one beyond the limit becomes the longest, and is named."""
    green = started(servers, dragonfly)
    settings = load_settings({"target": {"url": green.url}}, environ={}).settings
    now = int(time() * 1000)
    day = 24 * 3_600_000
    fields = [b"never", b"1", b"passed", b"2", b"soon", b"3", b"in a day", b"4", b"in 10 years", b"5"]
    expiries = (-1, now - 5, now + 2500, now + day, now + 3650 * day)
    with Endpoint.from_settings("target", settings.target).connect("test") as connection:
        lost = HASH.write(connection, b"h", [Piece([*fields], expiries=expiries)])
    with Raw(green.url) as raw:
        names = fields[::2]
        times = [as_int(t) for t in as_list(raw(b"HPEXPIRETIME", b"h", b"FIELDS", len(names), *names))]
    never, passed, soon, later, farthest = times
    assert (never, passed) == (-1, -2)
    assert abs(soon - expiries[2]) <= 1000
    assert abs(later - expiries[3]) <= 1000
    assert abs(farthest - now - 268_435_455_000) <= 5000
    assert [text.split(" that ")[0] for text in lost] == ["the expiries of 1 hash field"]


def test_an_error_does_not_repeat_the_arguments() -> None:
    error = ErrorReply("ERR unknown command 'JSON.SET', with args beginning with: 'key' '$' 'secret'")
    assert str(error) == "ERR unknown command 'JSON.SET'"
