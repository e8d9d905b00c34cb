"""Undoing a fence after a crash anywhere, and fences where the ACL may not be changed."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Process
from time import monotonic, sleep

import pytest

from integrity.endpoint import Identity
from integrity.errors import PermissionRefused, Refused
from integrity.switch.fence import Fence
from integrity.switch.fence_plan import FencePlan
from integrity.switch.own_user import elevated
from tests.fencing import Fenced, Writers, application, endpoint_of, fingerprint, recorded, server, until

__all__ = ["server"]

STEPS: tuple[Callable[[Fence, FencePlan], object], ...] = (
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


def test_a_fence_that_the_server_forgot_shows_and_is_put_up_again(server: Fenced) -> None:
    plan = server.fence().plan()
    server.fence().refuse(plan)
    server.forget_acl()
    assert not server.fence().holds(plan)
    server.fence().refuse(plan)
    assert server.fence().holds(plan)


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
        # Answers to what was written before the pause are on their way to threads that wait for their turn.
        sleep(0.2)
        refused_at, at_once = monotonic(), fingerprint(server.url)
        fence.unpause()
        until(writers.all_refused)
        sleep(0.3)
        assert writers.since(refused_at) == {}
        assert fingerprint(server.url) == at_once
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
