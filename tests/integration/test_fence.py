"""The write fence on real servers: nothing is written behind it, and Greenfly still writes."""

from __future__ import annotations

from time import monotonic, sleep

import pytest
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoPermissionError, ResponseError

from integrity.switch.access import WriteCommands
from integrity.switch.own_user import elevated, leftovers
from tests.fencing import Fenced, Writers, application, fingerprint, server, until
from tests.raw import UnexpectedReply

__all__ = ["server"]


@pytest.mark.parametrize("paused", [True, False], ids=["paused", "at once"])
def test_no_write_is_acknowledged_or_takes_effect_behind_the_fence(server: Fenced, paused: bool) -> None:
    fence = server.fence()
    plan = fence.plan()
    with Writers(server.url) as writers:
        until(writers.all_wrote)
        if paused:
            fence.pause(10)
            sleep(0.1)
        fence.refuse(plan)
        refused_at = monotonic()
        at_once = fingerprint(server.url)
        if paused:
            fence.unpause()
        until(writers.all_refused)
        assert fingerprint(server.url) == at_once
        sleep(0.5)
        assert fingerprint(server.url) == at_once
        # A reply may have been on its way when the server refused; it needs no longer than this.
        assert writers.since(refused_at + 0.2) == {}
        assert fence.holds(plan)
        fence.lift(plan)
        lifted_at = monotonic()
        until(lambda: len(writers.since(lifted_at)) == len(writers.acknowledged))
    assert not fence.holds(plan)


def test_greenfly_writes_behind_the_fence_and_applications_read(server: Fenced) -> None:
    server.client.set("k", "v")
    fence = server.fence()
    plan = fence.plan()
    fence.refuse(plan)
    own = elevated(server.endpoint)
    with own.connect("test") as connection:
        connection.command(b"SET", b"k", b"w")
    with pytest.raises(ResponseError):
        server.client.set("k", "x")
    assert server.client.get("k") == b"w"
    assert len(leftovers(server.endpoint)) == 1
    fence.lift(plan)
    assert leftovers(server.endpoint) == []
    assert server.client.set("k", "x")


def test_a_transaction_that_was_queued_before_the_fence_writes_nothing(server: Fenced) -> None:
    with application(server.url) as client:
        held = client.connection_pool.get_connection()
        for command in (("MULTI",), ("SET", "queued", "x"), ("RPUSH", "queuedlist", "x")):
            held.send_command(*command)
            held.read_response()
        fence = server.fence()
        plan = fence.plan()
        fence.refuse(plan)
        held.send_command("EXEC")
        if server.dragonfly:
            with pytest.raises(ResponseError):
                held.read_response()
        else:
            assert [type(answer) for answer in held.read_response()] == [NoPermissionError] * 2
    assert server.client.dbsize() == 0


@pytest.mark.parametrize(
    "command",
    [
        ("BLPOP", "waited", "0"),
        ("BLMOVE", "waited", "moved", "LEFT", "RIGHT", "0"),
        ("BZPOPMIN", "waitedset", "0"),
    ],
)
def test_a_client_that_waited_before_the_fence_takes_nothing_that_greenfly_writes(
    server: Fenced, command: tuple[str, ...]
) -> None:
    with application(server.url) as client:
        waiting = client.connection_pool.get_connection()
        waiting.send_command(*command)
        until(lambda: server.blocked() == 1)
        fence = server.fence()
        fence.refuse(fence.plan())
        with elevated(server.endpoint).connect("test") as own:
            own.command(b"RPUSH", b"waited", b"x")
            own.command(b"ZADD", b"waitedset", b"1", b"x")
        sleep(0.1)
        assert server.client.llen("waited") == 1
        assert server.client.zcard("waitedset") == 1
        assert server.client.exists("moved") == 0
        with pytest.raises((LostConnection, ResponseError)):
            waiting.read_response()


def test_a_client_that_waits_in_a_read_is_left_alone(server: Fenced) -> None:
    if server.dragonfly:
        pytest.skip("Dragonfly does not tell what a client waits in")
    with application(server.url) as client:
        waiting = client.connection_pool.get_connection()
        waiting.send_command("XREAD", "BLOCK", "0", "STREAMS", "s", "$")
        until(lambda: server.blocked() == 1)
        fence = server.fence()
        fence.refuse(fence.plan())
        with elevated(server.endpoint).connect("test") as own:
            own.command(b"XADD", b"s", b"*", b"f", b"v")
        assert waiting.read_response()


def test_what_a_client_sent_during_the_pause_before_it_left_writes_nothing(server: Fenced) -> None:
    fence = server.fence()
    plan = fence.plan()
    fence.pause(10)
    with application(server.url) as client:
        for number in range(20):
            client.connection_pool.get_connection().send_command("SET", f"left:{number}", "x")
        transaction = client.connection_pool.get_connection()
        transaction.send_command("MULTI")
        transaction.send_command("SET", "left:tx", "x")
        transaction.send_command("EXEC")
        script = client.connection_pool.get_connection()
        script.send_command("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "left:script")
        sleep(0.2)
    fence.refuse(plan)
    fence.unpause()
    sleep(0.3)
    assert server.client.dbsize() == 0


def test_every_command_that_changes_data_is_refused(server: Fenced) -> None:
    fence = server.fence()
    plan = fence.plan()
    fence.refuse(plan)
    with server.endpoint.connect("test") as connection:
        names = WriteCommands.read(connection).names
    for name in sorted(names):
        assert server.refuses(name), name


def test_functions_cannot_write(server: Fenced) -> None:
    if server.dragonfly or server.program.version < (7,):
        pytest.skip("this server has no functions")
    server.raw(
        "FUNCTION",
        "LOAD",
        "#!lua name=lib\nredis.register_function('put', function(keys) return redis.call('SET', keys[1], 'x') end)",
    )
    server.raw("FCALL", "put", 1, "k")
    server.fence().refuse(server.fence().plan())
    with pytest.raises(UnexpectedReply):
        server.raw("FCALL", "put", 1, "l")
    assert server.client.exists("l") == 0
