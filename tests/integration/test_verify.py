"""Verify says what is true about two servers, and how much of them it has seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from greenfly.demo.dataset import fill
from tests.cli import CompletedRun, Greenfly, dig
from tests.conftest import StartDragonfly
from tests.inprocess import between, run_here
from tests.raw import Raw
from tests.servers import Store


def verify(greenfly: Greenfly, source: str, target: str, *arguments: str, **env: str) -> CompletedRun:
    return run_here(greenfly, "verify", *between(source, target), "--json", *arguments, env=env)


def report(run: CompletedRun) -> object:
    path = run.at("report", "json")
    assert isinstance(path, str)
    return json.loads(Path(path).read_text("utf-8"))


def findings(run: CompletedRun) -> list[tuple[str, str, bytes]]:
    listed = dig(report(run), "findings")
    assert isinstance(listed, list)
    return sorted(
        (str(dig(f, "class")), str(dig(f, "state")), bytes.fromhex(str(dig(f, "key", "hex")))) for f in listed
    )


def detail(run: CompletedRun, name: str) -> object:
    phases = run.at("phases")
    assert isinstance(phases, list)
    return dig(next(phase for phase in phases if dig(phase, "name") == "verify"), "detail", name)


def both(blue: Store, green: Store, write: Callable[[Redis], object]) -> None:
    for store in (blue, green):
        write(store.client)


def test_equal_servers_pass(blue: Store, green: Store, greenfly: Greenfly) -> None:
    both(blue, green, lambda c: (c.set("s", "v"), c.rpush("l", 1, 2), c.hset("h", mapping={"a": 1, "b": 2})))
    blue.client.sadd("m", *range(600))
    green.client.sadd("m", *reversed(range(600)))

    run = verify(greenfly, blue.url, green.url)

    assert (run.exit_code, run.at("verdict"), run.at("kind")) == (0, "PASS", "verify"), run.stderr
    assert (detail(run, "compared"), detail(run, "equal"), detail(run, "target_scanned")) == (4, 4, 4)
    assert findings(run) == []


def test_verify_writes_to_neither_server(blue: Store, green: Store, greenfly: Greenfly) -> None:
    both(blue, green, lambda c: c.set("k", "v"))
    blue.client.set("missing", "v")
    before = [store.client.info("stats")["total_commands_processed"] for store in (blue, green)]
    for store in (blue, green):
        store.client.config_resetstat()

    verify(greenfly, blue.url, green.url)

    assert all(before)
    for store in (blue, green):
        used = {name.removeprefix("cmdstat_") for name in store.client.info("commandstats")}
        assert used & {"set", "del", "restore", "rename", "flushall", "expire", "pexpire"} == set()


def test_two_empty_servers_are_inconclusive(blue: Store, green: Store, greenfly: Greenfly) -> None:
    run = verify(greenfly, blue.url, green.url)

    assert (run.exit_code, run.at("verdict")) == (3, "INCONCLUSIVE")
    assert run.at("state") == "finished"


def test_an_empty_source_and_a_full_target_are_a_fail(blue: Store, green: Store, greenfly: Greenfly) -> None:
    green.client.set("k", "v")

    run = verify(greenfly, blue.url, green.url)
    allowed = verify(greenfly, blue.url, green.url, "--allow-extra")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL")
    assert findings(run) == [("extra", "open", b"k")]
    assert (allowed.exit_code, allowed.at("verdict")) == (3, "INCONCLUSIVE"), "no key was compared"


def test_extra_keys_can_be_allowed_by_name(blue: Store, green: Store, greenfly: Greenfly) -> None:
    both(blue, green, lambda c: c.set("k", "v"))
    green.client.set("extra", "v")

    strict = verify(greenfly, blue.url, green.url)
    by_flag = verify(greenfly, blue.url, green.url, "--allow-extra")
    by_setting = verify(greenfly, blue.url, green.url, GREENFLY_VERIFY__EXTRA_KEYS="allow")

    assert (strict.exit_code, strict.at("verdict")) == (1, "FAIL")
    for run in (by_flag, by_setting):
        assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS")
        assert findings(run) == [("extra", "exception", b"extra")]


def test_allowing_extra_keys_allows_nothing_else(blue: Store, green: Store, greenfly: Greenfly) -> None:
    both(blue, green, lambda c: c.set("k", "v"))
    blue.client.set("missing", "v")
    green.client.set("extra", "v")

    run = verify(greenfly, blue.url, green.url, "--allow-extra")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL")
    assert findings(run) == [("extra", "exception", b"extra"), ("missing", "open", b"missing")]


def test_a_key_of_a_kind_that_nobody_knows_is_never_a_pass(
    green_dragonfly: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly
) -> None:
    other = start_dragonfly()
    for store in (green_dragonfly, other):
        store.client.set("k", "v")
        with Raw(store.url) as raw:
            raw("BF.ADD", "seen", "a")

    run = verify(greenfly, green_dragonfly.url, other.url)

    assert (run.exit_code, run.at("verdict")) == (3, "INCONCLUSIVE"), run.stderr
    assert findings(run) == [("unreadable", "open", b"seen")]
    assert detail(run, "compared") == 1


@pytest.mark.dragonfly
def test_json_documents_are_compared(
    green_dragonfly: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly
) -> None:
    other = start_dragonfly()
    for store, value in ((green_dragonfly, 1), (other, 2)):
        with Raw(store.url) as raw:
            raw("JSON.SET", "same", "$", '{"a": 1, "b": [true, null]}')
            raw("JSON.SET", "differs", "$", f'{{"a": {value}}}')

    run = verify(greenfly, green_dragonfly.url, other.url)

    assert (run.exit_code, findings(run)) == (1, [("value", "open", b"differs")])


# -- which databases ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three_databases(blue: Store, green_redis: Store) -> None:
    """Equal in 1, different in 0 and 3."""
    for store in (blue, green_redis):
        store.database(1).set("k", "v")
        store.database(3).set("k", store.url)
    blue.database(0).set("k", "v")


@pytest.mark.usefixtures("three_databases")
def test_all_databases_of_both_sides_are_compared(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    green_redis.database(9).set("k", "v")

    run = verify(greenfly, blue.url, green_redis.url)

    assert run.at("findings", "open") == {"missing": 1, "value": 1, "extra": 1}
    assert run.at("phases", 0, "detail", "databases") == [0, 1, 3], "those of the source"
    assert detail(run, "target_scanned") == 3, "database 9 of the target is searched all the same"


@pytest.mark.usefixtures("three_databases")
def test_only_the_databases_that_were_asked_for_are_compared(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    one = verify(greenfly, blue.url, green_redis.url, "--databases", "1")
    two = verify(greenfly, blue.url, green_redis.url, GREENFLY_DATABASES="3,1,3")

    assert (one.exit_code, one.at("phases", 0, "detail", "databases")) == (0, [1])
    assert (two.exit_code, two.at("phases", 0, "detail", "databases")) == (1, [1, 3])
    assert two.at("findings", "open") == {"value": 1}


@pytest.mark.usefixtures("three_databases")
@pytest.mark.parametrize(("number", "code"), [(1, 0), (3, 1), (0, 1), (5, 3)])
def test_a_url_can_name_the_database(
    blue: Store, green_redis: Store, greenfly: Greenfly, number: int, code: int
) -> None:
    run = verify(greenfly, f"{blue.url}/{number}", f"{green_redis.url}/{number}")

    assert (run.exit_code, run.at("phases", 0, "detail", "databases")) == (code, [number])


def test_a_url_of_the_source_alone_names_the_database_of_both(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    for store in (blue, green_redis):
        store.database(3).set("k", "v")
    green_redis.database(4).set("not looked at", "v")

    assert verify(greenfly, f"{blue.url}/3", green_redis.url).exit_code == 0


@pytest.mark.parametrize(("source", "target"), [("/3", "/4"), ("", "/3")])
def test_urls_that_name_different_databases_are_refused(
    blue: Store, green_redis: Store, greenfly: Greenfly, source: str, target: str
) -> None:
    run = verify(greenfly, blue.url + source, green_redis.url + target)

    assert run.exit_code == 2
    assert "3" in str(run.at("error", "problem"))


# -- expiries ----------------------------------------------------------------------------------------------------------

LATER = int(time.time() * 1000) + 3_600_000
"""In an hour: Dragonfly keeps milliseconds for a day and a half only."""


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        (LATER, LATER, True),
        (LATER, LATER + 1000, True),
        (LATER, LATER - 1000, True),
        (LATER, LATER + 1001, False),
        (LATER, None, False),
        (None, LATER, False),
    ],
    ids=["same", "a second later", "a second earlier", "more than that", "none there", "none here"],
)
def test_expiries_may_differ_by_the_tolerance_only(
    blue: Store, green_redis: Store, greenfly: Greenfly, ours: int | None, theirs: int | None, agree: bool
) -> None:
    for store, at in ((blue, ours), (green_redis, theirs)):
        store.client.set("k", "v", pxat=at)

    run = verify(greenfly, blue.url, green_redis.url)

    assert run.exit_code == (0 if agree else 1)
    assert findings(run) == ([] if agree else [("expiry", "open", b"k")])


def test_the_tolerance_can_be_none(blue: Store, green: Store, greenfly: Greenfly) -> None:
    for store, at in ((blue, LATER), (green, LATER + 50)):
        store.client.set("k", "v", pxat=at)
    # Dragonfly turns PXAT into a distance from now and back, so under load it may keep a millisecond more or less.
    kept = green.client.pexpiretime("k")

    tight = verify(greenfly, blue.url, green.url, GREENFLY_VERIFY__EXPIRY_TOLERANCE_MS="0")
    wide = verify(greenfly, blue.url, green.url)

    assert (tight.exit_code, wide.exit_code) == (1, 0)
    assert detail(wide, "max_expiry_drift_ms") == kept - LATER


# -- what differs ------------------------------------------------------------------------------------------------------


def test_value_type_and_expiry_of_one_key_are_findings_of_their_own(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("both", "a", pxat=LATER)
    green.client.set("both", "b")
    blue.client.set("type", "a")
    green.client.rpush("type", "a")

    run = verify(greenfly, blue.url, green.url)

    assert findings(run) == [
        ("expiry", "open", b"both"),
        ("type", "open", b"type"),
        ("value", "open", b"both"),
    ]


STREAM_HARM: dict[str, Callable[[Redis, str], object]] = {
    "last id": lambda c, k: c.execute_command("XSETID", k, "9-0"),  # type: ignore[no-untyped-call]
    "an acknowledged entry": lambda c, k: c.xack(k, "g", "1-1"),
    "a consumer": lambda c, k: c.xgroup_createconsumer(k, "g", "idle"),
    "a group": lambda c, k: c.xgroup_create(k, "h", "0"),
    "an entry": lambda c, k: c.xdel(k, "2-1"),
    "one delivery more": lambda c, k: c.xclaim(k, "g", "c", 0, ["1-1"], retrycount=5),
}


def test_a_streams_hidden_state_is_compared(blue: Store, green: Store, greenfly: Greenfly) -> None:
    def make(client: Redis) -> None:
        for key in ("untouched", *STREAM_HARM):
            for number in (1, 2, 3):
                client.xadd(key, {"f": number}, id=f"{number}-1")
            client.xgroup_create(key, "g", "0")
            client.xreadgroup("g", "c", {key: ">"}, count=2)

    both(blue, green, make)
    assert verify(greenfly, blue.url, green.url).exit_code == 0

    for key, harm in STREAM_HARM.items():
        harm(green.client, key)

    run = verify(greenfly, blue.url, green.url)
    assert findings(run) == [("value", "open", key.encode()) for key in sorted(STREAM_HARM)]


def test_a_difference_that_goes_away_before_it_is_looked_at_again_settles(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    both(blue, green_redis, lambda c: c.set("k", "v"))
    # The source has this key for a moment more: the target's copy has expired already when both are compared.
    at = int(blue.client.time()[0]) * 1000 + 2500
    blue.client.set("going", "v", pxat=at)

    run = verify(greenfly, blue.url, green_redis.url, GREENFLY_VERIFY__RECHECK_DELAY="1.3")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert findings(run) == [("missing", "settled", b"going")]
    assert detail(run, "settled") == 1


def test_small_batches_see_the_same(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=300, seed=41)
    moved = run_here(greenfly, "migrate", *between(blue.url, green.url), "--no-snapshot", "--json")
    assert moved.exit_code == 0
    green.client.set("extra", "v")
    small = {"GREENFLY_VERIFY__BATCH_KEYS": "1", "GREENFLY_VERIFY__BATCH_BYTES": "65536"}

    run = verify(greenfly, blue.url, green.url, **small)

    assert findings(run) == [("extra", "open", b"extra")]
    assert detail(run, "fingerprints") != {}
    assert detail(run, "equal") == 300
