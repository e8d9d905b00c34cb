"""What happens to keys that the target already holds, that expire on the way, or that it does not accept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from integrity.transfer.temporary import PREFIX as TEMPORARY_PREFIX
from tests.cli import CompletedRun, Greenfly, dig
from tests.conftest import StartServer
from tests.inprocess import between, run_here
from tests.oracle import compare
from tests.proxy import Proxy
from tests.raw import Raw, as_int
from tests.servers import Store

Found = tuple[str, str, int, bytes]
"""class, state, database, key"""


def migrate(greenfly: Greenfly, source: str, target: str, *arguments: str) -> CompletedRun:
    return run_here(greenfly, "migrate", *between(source, target), "--no-snapshot", "--json", *arguments)


def findings(run: CompletedRun) -> list[Found]:
    path = run.at("report", "json")
    assert isinstance(path, str)
    listed = dig(json.loads(Path(path).read_text("utf-8")), "findings")
    assert isinstance(listed, list)
    found = []
    for item in listed:
        name, database = dig(item, "key", "hex"), dig(item, "database")
        assert isinstance(name, str)
        assert isinstance(database, int)
        found.append((str(dig(item, "class")), str(dig(item, "state")), database, bytes.fromhex(name)))
    return sorted(found)


def stream_detail(run: CompletedRun, name: str) -> object:
    phases = run.at("phases")
    assert isinstance(phases, list)
    return dig(next(phase for phase in phases if dig(phase, "name") == "stream"), "detail", name)


def all_keys(store: Store) -> set[tuple[int, bytes]]:
    found = set()
    for database in range(16):
        with Raw(store.url, database) as raw:
            found |= {(database, key) for key in Raw.keys(raw)}
    return found


def writes(store: Store) -> int:
    """How many commands that write the server has executed."""
    stats = store.client.info("commandstats")
    assert isinstance(stats, dict)
    names = ("restore", "rename", "set", "del", "copy", "hset", "rpush", "zadd", "sadd", "xadd")
    return sum(int(dig(stats, f"cmdstat_{name}", "calls")) for name in names if f"cmdstat_{name}" in stats)  # type: ignore[call-overload]


@pytest.fixture(autouse=True)
def no_temporary_keys_are_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, no key of ours stays behind on any server."""
    stores = [
        request.getfixturevalue(name)
        for name in ("blue", "green", "green_redis", "green_dragonfly")
        if name in request.fixturenames
    ]
    yield
    for store in stores:
        assert [place for place in all_keys(store) if place[1].startswith(TEMPORARY_PREFIX)] == []


# -- fail --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", [0, 9])
def test_fail_refuses_a_target_that_holds_a_key_in_any_database(
    blue: Store, green: Store, greenfly: Greenfly, database: int
) -> None:
    blue.client.set("k", "new")
    green.database(database).set("old", "kept")
    before = writes(green)

    run = migrate(greenfly, blue.url, green.url)

    assert run.exit_code == 4
    assert run.at("error", "kind") == "Refused"
    assert "--conflict" in str(run.at("error", "remedy"))
    assert all_keys(green) == {(database, b"old")}
    assert writes(green) - before <= 1, (
        "the check may delete a key that no one has, and nothing else is written"
    )


def test_fail_copies_into_an_empty_target(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=1_000, seed=21)

    run = migrate(greenfly, blue.url, green.url, "--conflict", "fail")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert stream_detail(run, "written") == 1_000
    assert compare(blue.url, green.url) == []


# -- skip --------------------------------------------------------------------------------------------------------------


def test_skip_keeps_the_targets_values_and_lists_them_as_exceptions(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for name in ("differs", "equal", "other type", "new"):
        blue.client.set(name, "of blue")
    green.client.set("differs", "of green")
    green.client.set("equal", "of blue")
    green.client.rpush("other type", "of green")

    run = migrate(greenfly, blue.url, green.url, "--conflict", "skip")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS"), run.stderr
    assert green.client.get("differs") == b"of green"
    assert green.client.lrange("other type", 0, -1) == [b"of green"]
    assert green.client.get("new") == b"of blue"
    assert (stream_detail(run, "written"), stream_detail(run, "skipped")) == (1, 3)
    found = findings(run)
    assert {state for _, state, _, _ in found} == {"exception"}
    assert [key for kind, _, _, key in found if kind == "skipped"] == [b"differs", b"equal", b"other type"]
    assert [(kind, key) for kind, _, _, key in found if kind != "skipped"] == [
        ("type", b"other type"),
        ("value", b"differs"),
    ]


def test_skip_excuses_only_the_keys_that_it_skipped(blue: Store, green: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "of blue")
    green.client.set("k", "of green")
    green.database(1).set("k", "only green has this one")

    run = migrate(greenfly, blue.url, green.url, "--conflict", "skip")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert [item for item in findings(run) if item[1] == "open"] == [("extra", "open", 1, b"k")]


def test_skip_into_an_empty_target_is_a_plain_pass(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=500, seed=22)

    run = migrate(greenfly, blue.url, green.url, "--conflict", "skip")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert compare(blue.url, green.url) == []


# -- replace -----------------------------------------------------------------------------------------------------------


def test_replace_overwrites_values_types_and_expiries(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=1_000, seed=23)
    for number in range(3):
        target = green.database(number)
        for place, key in enumerate(sorted(Raw(blue.url, number).keys())):
            match place % 4:
                case 0:
                    target.set(key, b"old")
                case 1:
                    target.rpush(key, b"old", b"older")
                case 2:
                    target.set(key, b"old", px=3_600_000)

    run = migrate(greenfly, blue.url, green.url, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert compare(blue.url, green.url) == []


def test_replace_does_not_delete_what_only_the_target_has(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("k", "v")
    green.client.set("other", "stays")

    run = migrate(greenfly, blue.url, green.url, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL")
    assert findings(run) == [("extra", "open", 0, b"other")]
    assert green.client.get("other") == b"stays"
    allowed = migrate(greenfly, blue.url, green.url, "--conflict", "replace", "--allow-extra")
    assert (allowed.exit_code, allowed.at("verdict")) == (0, "PASS WITH EXCEPTIONS")


def test_replace_twice_is_replace_once(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=500, seed=24)
    for _ in range(2):
        run = migrate(greenfly, blue.url, green.url, "--conflict", "replace")
        assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr

    assert compare(blue.url, green.url) == []


@pytest.mark.dragonfly
def test_replace_writes_through_temporary_keys_on_dragonfly_only(
    blue: Store, green_redis: Store, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    blue.client.rpush("k", "v")
    renames = []
    for green in (green_redis, green_dragonfly):
        green.client.set("k", "old")
        before = calls(green, "rename")
        run = migrate(greenfly, blue.url, green.url, "--conflict", "replace")
        assert run.exit_code == 0, run.stderr
        renames.append(calls(green, "rename") - before)

    assert renames == [0, 1]


def calls(store: Store, command: str) -> int:
    stats = store.client.info("commandstats")
    assert isinstance(stats, dict)
    name = f"cmdstat_{command}"
    return as_int(dig(stats, name, "calls")) if name in stats else 0  # type: ignore[arg-type]


# -- keys that expire --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fail", "replace"])
def test_keys_that_expire_during_the_run_are_no_difference(
    blue: Store, green: Store, greenfly: Greenfly, policy: str
) -> None:
    pipeline = blue.client.pipeline(transaction=False)
    for number in range(100):
        pipeline.set(f"stays:{number}", number)
    for number in range(900):
        pipeline.set(f"goes:{number}", number, px=1 + number)
    for number in range(100):
        pipeline.set(f"later:{number}", number, px=3_600_000 + number)
    pipeline.execute()

    run = migrate(greenfly, blue.url, green.url, "--conflict", policy)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert {key for _, key in all_keys(green) if not key.startswith(b"goes:")} == {
        f"{kind}:{number}".encode() for kind in ("stays", "later") for number in range(100)
    }


DOOMED = 4_000_000_000_000


def expire_on_the_way(data: bytes) -> tuple[bytes, bool]:
    """Let an expiry pass before the target gets to it."""
    return data.replace(b"%d" % DOOMED, b"%d" % (DOOMED // 4)), False


@pytest.mark.parametrize("policy", ["fail", "skip", "replace"])
def test_a_key_whose_expiry_passes_on_the_way_takes_its_old_value_with_it(
    blue: Store, green: Store, greenfly: Greenfly, policy: str
) -> None:
    blue.client.set("stays", "v")
    blue.client.set("goes", "v", pxat=DOOMED)
    blue.client.rpush("goes too", "v")
    blue.client.pexpireat("goes too", DOOMED)
    if policy == "replace":
        for key in ("stays", "goes", "goes too"):
            green.client.set(key, "old")

    with Proxy(green.url, expire_on_the_way) as proxy:
        run = migrate(greenfly, blue.url, proxy.url, "--conflict", policy)

    assert all_keys(green) == {(0, b"stays")}
    # Here the source still has them, so verify says what is true.
    missing = [("missing", "open", 0, key) for key in (b"goes", b"goes too")]
    assert (run.exit_code, findings(run)) == (1, missing)


# -- payloads that the target refuses ----------------------------------------------------------------------------------

MARKER = b"payload that breaks"


def break_payloads(data: bytes) -> tuple[bytes, bool]:
    """Change a value inside its payload, so that the payload's checksum no longer fits."""
    return (data.replace(MARKER, MARKER[::-1]) if b"RESTORE" in data else data), False


def break_everything(data: bytes) -> tuple[bytes, bool]:
    """Break payloads, and the typed command that would be tried instead."""
    return break_payloads(data)[0].replace(b"$5\r\nRPUSH\r\n", b"$5\r\nRUSH!\r\n"), False


@pytest.mark.parametrize("policy", ["fail", "skip", "replace"])
def test_a_refused_payload_is_rewritten_with_typed_commands(
    blue: Store, green: Store, greenfly: Greenfly, policy: str
) -> None:
    for number in range(200):
        blue.client.set(f"fine:{number}", number)
    blue.client.rpush("broken", MARKER)
    blue.client.pexpire("broken", 3_600_000)
    if policy == "replace":
        green.client.set("broken", "old")

    with Proxy(green.url, break_payloads) as proxy:
        run = migrate(greenfly, blue.url, proxy.url, "--conflict", policy)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert findings(run) == []
    figures = [stream_detail(run, name) for name in ("written", "rewritten", "refused")]
    assert figures == [201, 1, 0]
    assert compare(blue.url, green.url) == []


@pytest.mark.parametrize("policy", ["fail", "skip", "replace"])
def test_a_key_that_can_be_written_in_no_way_is_a_finding_and_a_fail(
    blue: Store, green: Store, greenfly: Greenfly, policy: str
) -> None:
    for number in range(200):
        blue.client.set(f"fine:{number}", number)
    blue.client.rpush("broken", MARKER)

    with Proxy(green.url, break_everything) as proxy:
        run = migrate(greenfly, blue.url, proxy.url, "--conflict", policy)

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert findings(run) == [("missing", "open", 0, b"broken"), ("refused", "open", 0, b"broken")]
    assert (stream_detail(run, "written"), stream_detail(run, "refused")) == (200, 1)
    assert [(d.key, d.what) for d in compare(blue.url, green.url)] == [(b"broken", "missing")]


def test_a_key_that_can_be_written_in_no_way_leaves_the_old_value_under_replace(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.rpush("broken", MARKER)
    blue.client.set("fine", "new")
    green.client.set("broken", "old")
    green.client.set("fine", "old")

    with Proxy(green.url, break_everything) as proxy:
        run = migrate(greenfly, blue.url, proxy.url, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert green.client.get("broken") == b"old"
    assert green.client.get("fine") == b"new"
    assert findings(run) == [("refused", "open", 0, b"broken"), ("type", "open", 0, b"broken")]


@pytest.mark.dragonfly
def test_a_type_that_the_target_does_not_know_is_refused_by_name(
    green_dragonfly: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("JSON.SET", "document", "$", '{"a": 1}')
        raw("BF.ADD", "filter", "a")
        raw("SET", "plain", "v")

    run = migrate(greenfly, green_dragonfly.url, green_redis.url)

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert findings(run) == [
        (kind, "open", 0, key) for kind in ("missing", "refused") for key in (b"document", b"filter")
    ]
    assert green_redis.client.get("plain") == b"v"


def test_an_error_about_the_server_ends_the_run_instead_of_becoming_findings(
    blue: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    for number in range(50):
        blue.client.rpush(f"k:{number}", number)
    target = start_redis()
    target.client.execute_command("ACL", "SETUSER", "default", "-restore")  # type: ignore[no-untyped-call]

    run = migrate(greenfly, blue.url, target.url)

    assert run.exit_code == 24
    assert run.at("error", "kind") == "PermissionRefused"


# -- databases and large values ----------------------------------------------------------------------------------------


def test_every_key_keeps_its_database(blue: Store, green: Store, greenfly: Greenfly) -> None:
    for number in (0, 3, 15):
        blue.database(number).set("k", number)

    run = migrate(greenfly, blue.url, green.url)

    assert run.exit_code == 0, run.stderr
    assert all_keys(green) == {(0, b"k"), (3, b"k"), (15, b"k")}
    assert compare(blue.url, green.url) == []


def test_only_the_databases_that_were_asked_for_are_copied(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for number in range(4):
        blue.database(number).set("k", number)

    run = migrate(greenfly, blue.url, green.url, "--databases", "3,1")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert all_keys(green) == {(1, b"k"), (3, b"k")}


def test_a_database_that_the_target_has_not_is_refused_before_the_first_write(
    blue: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    blue.client.set("k", "v")
    blue.database(7).set("k", "v")
    small = start_redis("--databases", "4")

    run = migrate(greenfly, blue.url, small.url)

    assert run.exit_code == 4
    assert "7" in str(run.at("error", "problem"))
    assert small.client.dbsize() == 0


def odd_shapes(store: Store) -> None:
    """Names and values at the edges of what a server holds."""
    client = store.client
    client.set("", "")
    client.set(bytes(range(256)), bytes(range(256))[::-1])
    client.set(b"n" * 100_000, "v")
    client.set("a value of 12 MB", b"0123456789abcdef" * 750_000)
    client.rpush("a long list", *range(50_000))
    client.hset("a large hash", mapping={f"f{n}": n for n in range(20_000)})
    client.zadd("a large sorted set", {f"m{n}": n / 7 for n in range(20_000)})
    client.sadd("a set of numbers", *range(600))
    client.set("the smallest number", -(2**63))
    client.hset("empty field", "", "")
    client.set(b"greenfly:tm", "nearly the name of a temporary key")
    store.database(1).set("the only key of its database", "v")


@pytest.mark.parametrize("policy", ["fail", "replace"])
def test_values_of_any_shape_arrive(blue: Store, green: Store, greenfly: Greenfly, policy: str) -> None:
    odd_shapes(blue)

    run = migrate(greenfly, blue.url, green.url, "--conflict", policy)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert compare(blue.url, green.url) == []
