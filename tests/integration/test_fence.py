"""The write fence on real servers: nothing is written behind it, Greenfly still writes, lifting restores exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from multiprocessing import Process
from time import monotonic, sleep

import pytest
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoPermissionError, ResponseError

from integrity.endpoint import Identity
from integrity.errors import LedgerError, PermissionRefused, Refused
from integrity.switch.access import WriteCommands
from integrity.switch.fence import Fence
from integrity.switch.fence_plan import FencePlan
from integrity.switch.own_user import elevated, leftovers
from tests.fencing import Fenced, Writers, application, endpoint_of, fingerprint, server, until
from tests.raw import UnexpectedReply, as_strings

__all__ = ["server"]


def recorded(plan: FencePlan) -> FencePlan:
    """The plan as another process reads it from the ledger."""
    facts = json.loads(json.dumps(plan.to_dict()))
    return FencePlan.from_dict(facts)


def test_no_write_is_acknowledged_or_takes_effect_behind_the_fence(server: Fenced) -> None:
    fence = server.fence()
    plan = fence.plan()
    with Writers(server.url) as writers:
        until(writers.all_wrote)
        fence.pause(10)
        sleep(0.1)
        fence.refuse(plan)
        refused_at = monotonic()
        fence.unpause()
        until(writers.all_refused)
        at_once = fingerprint(server.client)
        sleep(0.5)
        assert writers.since(refused_at) == {}
        assert fingerprint(server.client) == at_once
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


def test_lifting_restores_every_user_exactly(server: Fenced) -> None:
    server.make_user("reader", "on", "~*", "-@all", "+@read")
    server.make_user("partly", "on", "~app:*", "-@all", "+@read", "+set", "+expire", "-get")
    server.make_user("most", "on", "~*", "+@all", "-@dangerous")
    server.make_user("disabled", "off", "~*", "+@all")
    before = server.acl_list()
    fence = server.fence()
    plan = fence.plan()
    assert {user.name for user in plan.users} == {"default", "partly", "most", "disabled"}
    fence.refuse(plan)
    fence.refuse(plan)
    server.fence().lift(recorded(plan))
    if not server.dragonfly:
        assert server.acl_list() == before
    fence.lift(plan)
    assert not fence.holds(plan)


# -- clients in every state ------------------------------------------------------------------------------------------


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


# -- users -----------------------------------------------------------------------------------------------------------


def test_rights_under_selectors_are_refused_and_given_back(server: Fenced) -> None:
    if server.dragonfly or server.program.version < (7,):
        pytest.skip("this server has no selectors")
    server.make_user(
        "selective",
        "on",
        "~read:*",
        "+@read",
        "+client",
        "(+@write %RW~a:* &news:*)",
        "(+set +get -@dangerous ~b:*)",
        "(+get %R~c)",
    )
    before = server.acl_list()
    fence = server.fence()
    plan = fence.plan()
    selective = next(user for user in plan.users if user.name == "selective")
    assert len(selective.selectors) == 3
    fence.refuse(plan)
    with application(server.url_of("selective")) as client:
        for key in ("a:1", "b:1"):
            with pytest.raises(ResponseError):
                client.set(key, "x")
        assert client.get("read:1") is None
        server.fence().lift(recorded(plan))
        assert client.set("a:1", "x")
    assert server.acl_list() == before


def test_kept_users_write_on(server: Fenced) -> None:
    server.make_user("batch", "on", "~*", "+@all")
    fence = server.fence("batch")
    plan = fence.plan()
    assert [user.name for user in plan.users] == ["default"]
    assert plan.kept == ("batch",)
    fence.refuse(plan)
    assert fence.holds(plan)
    with application(server.url_of("batch")) as client:
        assert client.set("k", "v")


def test_greenflys_own_user_is_kept_only_where_no_application_uses_it(server: Fenced) -> None:
    server.make_user("mover", "on", "~*", "&*", "+@all")
    own = Fence(server.as_user("mover"), server.identity)
    probe = own.probe()
    assert probe.own_user == "mover"
    assert probe.own_user_fenced is server.dragonfly
    with application(server.url_of("mover")) as client:
        client.ping()
        assert own.probe().own_user_fenced
        assert "mover" in {user.name for user in own.plan().users}


def test_an_application_that_logs_in_as_a_kept_own_user_is_noticed(server: Fenced) -> None:
    if server.dragonfly:
        pytest.skip("Dragonfly does not tell who is logged in, so the own user is never kept there")
    server.make_user("mover", "on", "~*", "&*", "+@all")
    fence = Fence(server.as_user("mover"), server.identity)
    plan = fence.plan()
    fence.refuse(plan)
    assert fence.holds(plan)
    with application(server.url_of("mover")) as client:
        client.ping()
        assert not fence.holds(plan)


def test_a_user_that_came_up_after_the_plan_is_noticed(server: Fenced) -> None:
    fence = server.fence()
    plan = fence.plan()
    server.make_user("late", "on", "~*", "+@all")
    with pytest.raises(Refused):
        fence.refuse(plan)
    assert not fence.holds(plan)
    server.raw("ACL", "DELUSER", "late")
    fence.refuse(plan)
    assert fence.holds(plan)


def test_a_user_that_was_deleted_meanwhile_is_not_made_again(server: Fenced) -> None:
    server.make_user("gone", "on", "~*", "+@all")
    fence = server.fence()
    plan = fence.plan()
    server.raw("ACL", "DELUSER", "gone")
    fence.refuse(plan)
    fence.lift(plan)
    assert b"gone" not in as_strings(server.raw("ACL", "USERS"))


def test_a_user_that_was_switched_off_but_is_still_connected_is_refused(server: Fenced) -> None:
    server.make_user("off", "on", "~*", "+@all")
    with application(server.url_of("off")) as client:
        client.set("k", "v")
        server.raw("ACL", "SETUSER", "off", "off")
        server.fence().refuse(server.fence().plan())
        with pytest.raises((ResponseError, LostConnection)):
            client.set("k", "w")
    assert server.client.get("k") == b"v"


def test_a_second_fence_is_not_planned_over_the_first(server: Fenced) -> None:
    fence = server.fence()
    plan = fence.plan()
    fence.refuse(plan)
    assert server.fence().probe().already_fenced
    with pytest.raises(Refused):
        server.fence().plan()
    fence.lift(plan)
    assert not server.fence().probe().already_fenced
    assert {user.name for user in server.fence().plan().users} == {"default"}


# -- looking ---------------------------------------------------------------------------------------------------------


def test_a_probe_leaves_nothing_behind(server: Fenced) -> None:
    server.make_user("reader", "on", "~*", "-@all", "+@read")
    before = server.acl_list()
    probe = server.fence().probe()
    assert probe.acl.possible
    assert probe.pause.possible
    assert probe.method == "acl"
    assert probe.greenfly_can_write
    assert probe.users == ("default",)
    assert probe.own_user == "default"
    assert probe.own_user_fenced
    assert json.loads(json.dumps(probe.to_dict()))["method"] == "acl"
    assert server.acl_list() == before
    assert server.client.set("k", "v")


def test_a_plan_holds_no_password_and_no_hash(server: Fenced) -> None:
    server.make_user("shop", "on", "~*", "+@all")
    facts = json.dumps(server.fence().plan().to_dict())
    assert "secret" not in facts
    assert hashlib.sha256(b"secret").hexdigest()[:8] not in facts


def test_a_plan_that_is_none_is_refused() -> None:
    for facts in ({}, {"method": "acl"}, {"method": "magic", "users": [], "refusal": [], "kept": []}):
        with pytest.raises(LedgerError):
            FencePlan.from_dict(facts)


# -- crashes ---------------------------------------------------------------------------------------------------------

STEPS: tuple[Callable[[Fence, FencePlan], None], ...] = (
    lambda fence, _plan: fence.pause(30),
    lambda fence, plan: fence.refuse(plan),
    lambda fence, _plan: fence.unpause(),
    lambda fence, plan: fence.lift(plan),
)


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_another_process_lifts_whatever_was_done_until_then(server: Fenced, done: int) -> None:
    server.make_user("shop", "on", "~*", "-@all", "+@read", "+set", "+client")
    before = server.rights()
    plan = server.fence().plan()
    for step in STEPS[:done]:
        step(server.fence(), plan)
    server.fence().lift(recorded(plan))
    assert server.rights() == before
    with application(server.url_of("shop")) as client:
        begun = monotonic()
        client.set("k", "v")
        assert monotonic() - begun < 5


def test_a_process_killed_while_users_are_refused_is_undone(server: Fenced) -> None:
    for number in range(300):
        server.make_user(f"user{number}", "on", "~*", "+@all")
    before = server.rights()
    plan = server.fence().plan()
    assert len(plan.users) == 301
    child = Process(target=_refuse_for_ever, args=(server.url, server.identity, plan))
    child.start()
    sleep(0.4)
    child.kill()
    child.join()
    server.fence().lift(recorded(plan))
    assert server.rights() == before


def _refuse_for_ever(url: str, identity: Identity, plan: FencePlan) -> None:
    while True:
        Fence(endpoint_of(url), identity).refuse(plan)


def test_a_restart_forgets_the_fence_and_it_shows(server: Fenced) -> None:
    plan = server.fence().plan()
    server.fence().refuse(plan)
    server.forget_acl()
    assert not server.fence().holds(plan)
    server.fence().refuse(plan)
    assert server.fence().holds(plan)


# -- other means -----------------------------------------------------------------------------------------------------


def test_without_acl_everybody_is_refused_through_min_replicas(server: Fenced) -> None:
    if server.dragonfly or server.program.version < (7,):
        pytest.skip("this server cannot refuse writes in another way")
    fence = Fence(server.limited("+@all", "-acl"), server.identity)
    probe = fence.probe()
    assert not probe.acl.possible
    assert probe.acl.reason
    assert probe.method == "min-replicas"
    assert not probe.greenfly_can_write
    server.raw("CONFIG", "SET", "min-replicas-max-lag", "0")
    plan = fence.plan()
    assert (plan.min_replicas_before, plan.max_lag_before) == (0, 0)
    with Writers(server.url) as writers:
        until(writers.all_wrote)
        fence.pause(10)
        fence.refuse(plan)
        refused_at = monotonic()
        fence.unpause()
        until(writers.all_refused)
        at_once = fingerprint(server.client)
        sleep(0.3)
        assert writers.since(refused_at) == {}
        assert fingerprint(server.client) == at_once
        assert fence.holds(plan)
        with pytest.raises(Refused):
            fence.plan()
    Fence(server.limited("+@all", "-acl"), server.identity).lift(recorded(plan))
    assert not fence.holds(plan)
    assert server.client.set("k", "v")
    assert server.client.config_get("min-replicas-max-lag") == {"min-replicas-max-lag": "0"}


def test_where_nothing_is_possible_it_is_refused_with_the_reasons(server: Fenced) -> None:
    fence = Fence(
        server.limited("+@all", *(["-@admin"] if server.dragonfly else ["-acl", "-config"])), server.identity
    )
    probe = fence.probe()
    assert probe.method is None
    assert probe.acl.remedy
    assert probe.min_replicas.reason
    with pytest.raises(Refused) as caught:
        fence.plan()
    assert probe.acl.reason in caught.value.problem


def test_min_replicas_is_not_offered_where_scripts_would_pass(server: Fenced) -> None:
    if server.program.version >= (7,) or server.dragonfly:
        pytest.skip("only Redis 6.2 lets them")
    assert not server.fence().probe().min_replicas.possible


def test_a_user_without_the_right_to_make_users_cannot_be_elevated(server: Fenced) -> None:
    with pytest.raises(PermissionRefused):
        elevated(server.limited("+@all", "-@admin"))
