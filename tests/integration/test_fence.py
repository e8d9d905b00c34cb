"""The write fence on real servers: nothing is written behind it, Greenfly still writes, lifting restores exactly."""

from __future__ import annotations

import json
from time import monotonic, sleep

import pytest
from redis.exceptions import ResponseError

from integrity.switch.fence_plan import FencePlan
from integrity.switch.own_user import elevated, leftovers
from tests.fencing import Fenced, Writers, fingerprint, server, until

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
