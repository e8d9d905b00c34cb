"""Whom a fence concerns: users with all kinds of rights, and what a probe and a plan tell about them."""

from __future__ import annotations

import hashlib
import json

import pytest
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError, ResponseError

from integrity.errors import LedgerError, Refused
from integrity.switch.fence import Fence
from integrity.switch.fence_plan import FencePlan
from integrity.switch.own_user import elevated
from tests.conftest import StartServer
from tests.fencing import Fenced, application, endpoint_of, recorded, server
from tests.raw import as_strings

__all__ = ["server"]


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


@pytest.mark.parametrize("engine", ["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def test_a_server_with_a_password_keeps_it(request: pytest.FixtureRequest, engine: str) -> None:
    start: StartServer = request.getfixturevalue(f"start_{engine}")
    store = start(password="hidden")
    endpoint = endpoint_of(store.url)
    fence = Fence(endpoint, endpoint.identify())
    plan = fence.plan()
    assert "hidden" not in json.dumps(plan.to_dict())
    fence.refuse(plan)
    own = elevated(endpoint)
    assert own.target.password
    assert own.target.password not in f"{own} {own.target!r}"
    with own.connect("test") as connection:
        connection.command(b"SET", b"k", b"v")
    with application(store.url) as client:
        with pytest.raises(ResponseError):
            client.set("k", "w")
        fence.lift(plan)
        assert client.set("k", "w")
    with application(store.url.replace("hidden", "guessed")) as client, pytest.raises(RedisError):
        client.get("k")


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
