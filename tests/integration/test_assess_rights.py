"""The rights that a run needs: tried without effect, and enough for a whole move."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from integrity.assess.acl_line import COPY_PARTS, LIVE_PARTS, PASSWORD, USER, granted, least_privilege
from integrity.assess.model import Outcome, Severity
from integrity.assess.needed_rights import RunPart, Side, rights
from integrity.assess.rights_probe import Answer, try_rights
from integrity.endpoint import Endpoint
from integrity.settings import EndpointSettings
from integrity.strategy import Strategy
from tests.assessing import look, subject_of
from tests.cli import Greenfly
from tests.conftest import StartServer
from tests.fencing import each_program
from tests.inprocess import between, run_here
from tests.live import Live, deep
from tests.matrix.cases import CASES
from tests.matrix.loader import load_cases
from tests.matrix.servers import Program, Server
from tests.proxy import Proxy
from tests.raw import Raw, as_bytes, as_list
from tests.servers import Store

SETTINGS: Final = """
[big_values]
threshold_bytes = 262144
piece_bytes = 32768
piece_elements = 500
[sync]
group_seconds = 0.5
[cutover]
confirm = "environment"
confirm_seconds = 10
"""
EVERYTHING: Final = (*LIVE_PARTS, RunPart.NATIVE)
DOES_WITHOUT: Final = frozenset(
    {
        # Greenfly looks whether it may write, or may use another way, and does without.
        "del",
        "config|set",
        "hello",
        "client",
        "debug",
    }
)
"""What the whole move is refused with the rights of the line, and nothing else."""


def endpoint_of(side: Side, url: str) -> Endpoint:
    """As Greenfly reaches it."""
    return Endpoint.from_settings(side, EndpointSettings(url=SecretStr(url)))


def line(url: str, side: Side, parts: Sequence[RunPart], without: Sequence[str] = ()) -> list[str]:
    """The words to paste for a server, some rights left out."""
    endpoint = endpoint_of(side, url)
    identity = endpoint.identify()
    tried = try_rights(endpoint, identity, rights(side, parts, identity.engine))
    words = shlex.split(least_privilege(side, parts, identity.engine, tried.known))
    return [word for word in words if word.removeprefix("+") not in without]


def allow(store: Store, side: Side, parts: Sequence[RunPart], without: Sequence[str] = ()) -> str:
    """Paste it; returns the URL of the user that it makes."""
    words = line(store.url, side, parts, without)
    with Raw(store.url) as raw:
        raw(*words)
    return store.url.replace("://", f"://{USER}:{PASSWORD}@")


def forget(*stores: Store) -> None:
    """Delete the user again."""
    for store in stores:
        with Raw(store.url) as raw:
            raw("ACL", "DELUSER", USER)


def forget_refusals(*stores: Store) -> None:
    """Those of earlier tests; the servers are the same."""
    for store in stores:
        with Raw(store.url) as raw:
            raw("ACL", "LOG", "RESET")


def refusals(store: Store) -> set[str]:
    """What the user was refused, by the server's own log."""
    found = set()
    with Raw(store.url) as raw:
        for entry in as_list(raw("ACL", "LOG")):
            parts = as_list(entry)
            facts = dict(zip(parts[::2], parts[1::2], strict=True))
            if facts[b"username"] == USER.encode():
                found.add(as_bytes(facts[b"object"]).decode().lower())
    return found


# -- trying ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", each_program())
def test_trying_every_right_changes_nothing(program: Program) -> None:
    with program.start() as running:
        endpoint = endpoint_of("source", running.url)
        identity = endpoint.identify()
        with Raw(running.url) as raw:
            raw("SET", "greenfly:probe", "somebody's")
            # With some refused: what follows a refusal must not be run either.
            raw("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "+@all", "-config", "-mget", "-ping")
        before = _state(running.url, identity.engine)
        narrow = endpoint_of("source", running.url.replace("://", f"://{USER}:{PASSWORD}@"))
        sides: tuple[Side, ...] = ("source", "target")
        for side in sides:
            tried = try_rights(endpoint, identity, rights(side, EVERYTHING, identity.engine))
            assert Answer.REFUSED not in tried.answers.values()
            assert Answer.UNTOLD not in tried.answers.values()
            assert tried.lacking(rights(side, EVERYTHING, identity.engine)) == []
            assert tried.every_key is Answer.ALLOWED
            assert try_rights(narrow, identity, rights(side, EVERYTHING, identity.engine)).answers[
                "ping"
            ] is (Answer.REFUSED)
        assert _state(running.url, identity.engine) == before


def _state(url: str, engine: str) -> tuple[object, ...]:
    with Raw(url) as raw:
        info = as_bytes(raw("INFO", "replication")).decode().splitlines()
        return (
            as_list(raw("ROLE"))[0],
            sorted(as_bytes(user) for user in as_list(raw("ACL", "USERS"))),
            [] if engine == "dragonfly" else as_list(raw("CONFIG", "GET", "*")),
            [text for text in info if text.startswith("connected_slaves")],
            raw("GET", "greenfly:probe"),
            raw("DBSIZE"),
        )


def test_each_right_that_is_missing_is_named(blue: Store, green: Store) -> None:
    _each_is_named(blue, "source")
    _each_is_named(green, "target")


def _each_is_named(store: Store, side: Side) -> None:
    endpoint = endpoint_of(side, store.url)
    identity = endpoint.identify()
    wanted = rights(side, EVERYTHING, identity.engine)
    known = try_rights(endpoint, identity, wanted).known
    given = granted(side, EVERYTHING, identity.engine, known)
    as_user = endpoint_of(side, allow(store, side, EVERYTHING))
    for right in given:
        rule = right.rule(identity.engine)
        if right.command in {"multi", "auth"}:
            continue
        with Raw(store.url) as raw:
            raw("ACL", "SETUSER", USER, f"-{rule[1:]}")
            raw("PING")  # by then Dragonfly has told every connection
            tried = try_rights(as_user, identity, given)
            raw("ACL", "SETUSER", USER, rule)
            raw("PING")
        expected = {each.command for each in given if each.rule(identity.engine) == rule}
        assert {each.command for each in tried.lacking(given)} == expected, right.command
    forget(store)


def test_a_user_without_transactions_cannot_be_tried(blue: Store, green_redis: Store) -> None:
    source = allow(blue, "source", EVERYTHING, ["multi"])
    finding = look(subject_of(source, green_redis.url), "rights.source")
    forget(blue)
    assert (finding.outcome, finding.severity) == (Outcome.UNKNOWN, Severity.WARNING)


def test_nothing_is_sent_where_commands_after_multi_are_run(blue: Store) -> None:
    def without_multi(data: bytes) -> tuple[bytes, bool]:
        # A proxy that takes MULTI and yet runs what follows.
        return data.replace(b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nPING\r\n"), False

    endpoint = endpoint_of("target", blue.url)
    identity = endpoint.identify()
    with Proxy(blue.url, without_multi) as between_them:
        tried = try_rights(
            endpoint_of("target", between_them.url), identity, rights("target", EVERYTHING, "redis")
        )
    assert tried.answers["set"] is Answer.UNTOLD
    assert blue.client.dbsize() == 0


def test_keys_of_some_names_alone_block(blue: Store, green_redis: Store) -> None:
    source = allow(blue, "source", EVERYTHING)
    with Raw(blue.url) as raw:
        raw("ACL", "SETUSER", USER, "resetkeys", "~app:*", "~greenfly:*")
    finding = look(subject_of(source, green_redis.url), "rights.source")
    forget(blue)
    assert (finding.outcome, finding.severity) == (Outcome.FOUND, Severity.BLOCKING)
    assert finding.items == ("keys of every name (~*)",)


# -- what follows from it ----------------------------------------------------------------------------------------------


def test_a_right_that_the_copy_needs_blocks_and_one_that_comes_later_warns(
    blue: Store, green_redis: Store
) -> None:
    source = allow(blue, "source", COPY_PARTS)
    later = look(subject_of(source, green_redis.url), "rights.source")
    assert (later.outcome, later.severity) == (Outcome.FOUND, Severity.WARNING)
    assert "cutover: client|pause" in later.items
    assert not [item for item in later.items if item.startswith("copy: ")]
    source = allow(blue, "source", COPY_PARTS, ["dump"])
    now = look(subject_of(source, green_redis.url), "rights.source")
    forget(blue)
    assert (now.outcome, now.severity) == (Outcome.FOUND, Severity.BLOCKING)
    assert {"copy: dump", "snapshot: dump"} <= set(now.items)


def test_a_right_of_the_snapshot_blocks_only_where_one_is_taken(blue: Store, green_redis: Store) -> None:
    source = allow(blue, "source", EVERYTHING, ["watch"])
    taken = look(subject_of(source, green_redis.url), "rights.source")
    left_out = look(subject_of(source, green_redis.url, snapshot={"enabled": False}), "rights.source")
    forget(blue)
    assert taken.severity is Severity.BLOCKING
    assert left_out.severity is Severity.WARNING


def test_a_replica_that_is_read_needs_the_rights_to_read(blue: Store, green_redis: Store) -> None:
    subject = subject_of(blue.url, green_redis.url)
    # Any other server will do: what is asked is what its user may run.
    replica = endpoint_of("source", allow(green_redis, "source", COPY_PARTS, ["mget"]))
    subject.reader, subject.reader_identity = replica, replica.identify()
    finding = look(subject, "rights.source")
    forget(green_redis)
    assert (finding.outcome, finding.severity) == (Outcome.FOUND, Severity.BLOCKING)
    assert finding.items == ("replica: mget",)


def test_a_right_that_a_run_does_without_is_said(blue: Store, green_redis: Store) -> None:
    source = allow(blue, "source", EVERYTHING, ["slowlog|len", "memory|usage"])
    finding = look(subject_of(source, green_redis.url), "rights.source")
    forget(blue)
    assert (finding.outcome, finding.severity) == (Outcome.FOUND, Severity.INFO)
    assert set(finding.items) == {"slowlog|len", "memory|usage"}


@pytest.mark.dragonfly
def test_json_is_needed_only_where_the_source_can_hold_it(blue: Store, green_dragonfly: Store) -> None:
    target = allow(green_dragonfly, "target", EVERYTHING, ["json.set", "json.get"])
    finding = look(subject_of(blue.url, target), "rights.target")
    forget(green_dragonfly)
    assert finding.severity is Severity.WARNING


def test_psync_is_needed_for_the_native_road_alone(blue: Store, green_redis: Store) -> None:
    source = allow(blue, "source", LIVE_PARTS)
    copied = look(subject_of(source, green_redis.url), "rights.source")
    native = look(subject_of(source, green_redis.url, Strategy.NATIVE), "rights.source")
    forget(blue)
    assert copied.outcome is Outcome.PASSED
    assert (native.outcome, native.severity) == (Outcome.FOUND, Severity.BLOCKING)


# -- enough ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(start_redis: StartServer) -> Store:
    """A source with every kind of value, whole and in pieces."""
    blue = start_redis()
    assert blue.server is not None
    shown = Server.of(Program(Path(), blue.engine, (7, 0)), blue.server)
    load_cases(shown, [case for case in CASES if not case.name.startswith(("module/", "expiry/10"))])
    return blue


@pytest.mark.parametrize(
    "engine",
    [pytest.param("redis", marks=deep), pytest.param("dragonfly", marks=pytest.mark.dragonfly)],
)
def test_a_user_with_exactly_that_line_can_move_there_and_back(
    engine: str, filled: Store, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    blue, green = filled, request.getfixturevalue(f"green_{engine}")
    assert isinstance(green, Store)
    source, target = allow(blue, "source", LIVE_PARTS), allow(green, "target", LIVE_PARTS)
    forget_refusals(blue, green)
    with Live(tmp_path / "live", source, target, SETTINGS) as live:
        configuration = live.folder / "greenfly.toml"
        text = configuration.read_text().replace("[snapshot]\nenabled = false\n", "")
        given = f'kind = "dotenv"\ngreen_url = "{green.url}"\n'
        configuration.write_text(text.replace('kind = "dotenv"\n', given))
        live.env_file.write_text(f"REDIS_URL={blue.url}\n")
        live.sync("--quiet")
        live.wait_until_clean()
        cutover = live.run("cutover", "--yes", "--json")
        assert cutover.code == 0, cutover.err + live.log()
        green.client.set("written on green", 1)
        time.sleep(0.5)
        rollback = live.run("rollback", "--yes", "--json")
        assert rollback.code == 0, rollback.err + live.log()
        assert blue.client.get("written on green") == b"1"
    assert refusals(blue) | refusals(green) <= DOES_WITHOUT
    forget(blue, green)


@pytest.mark.skipif(
    os.environ.get("GREENFLY_TEST_RIGHTS_DEEP") != "1", reason="GREENFLY_TEST_RIGHTS_DEEP=1 runs it"
)
@pytest.mark.parametrize("side", ["source", "target"])
def test_without_any_one_right_no_copy_passes_that_is_not_whole(
    side: Side, filled: Store, green: Store, greenfly: Greenfly
) -> None:
    """Every key arrives, or the run does not say PASS: for each right of the line, left out alone."""
    store = filled if side == "source" else green
    identity = endpoint_of(side, store.url).identify()
    rules = [right.rule(identity.engine)[1:] for right in rights(side, COPY_PARTS, identity.engine)]
    settings = {
        "GREENFLY_ASSESS__ENABLED": "false",
        "GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "262144",
        "GREENFLY_BIG_VALUES__PIECE_BYTES": "32768",
        "GREENFLY_VERIFY__RECHECKS": "1",
    }
    for rule in dict.fromkeys(rules):
        url = allow(store, side, COPY_PARTS, [rule])
        green.client.flushall()
        ends = (url, green.url) if side == "source" else (filled.url, url)
        done = run_here(greenfly, "migrate", *between(*ends), "--json", env=settings)
        forget(store)
        if done.exit_code == 0:
            assert green.client.dbsize() == filled.client.dbsize(), rule


@pytest.mark.dragonfly
def test_users_with_exactly_those_lines_can_take_the_native_road(
    start_redis: StartServer, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    blue = start_redis("--repl-diskless-sync-delay", "0")
    blue.client.mset({f"k:{number}": number for number in range(200)})
    parts = (*COPY_PARTS, RunPart.NATIVE)
    ends = (allow(blue, "source", parts), allow(green_dragonfly, "target", parts))
    forget_refusals(blue, green_dragonfly)
    env = {"GREENFLY_ASSESS__ENABLED": "false"}
    done = run_here(greenfly, "migrate", *between(*ends), "--strategy", "native", "--json", env=env)
    assert done.exit_code == 0, done.stderr
    assert green_dragonfly.client.dbsize() == 200
    refused = refusals(blue) | refusals(green_dragonfly)
    forget(blue, green_dragonfly)
    assert refused <= DOES_WITHOUT | {"set"}
