"""`greenfly migrate --strategy native`: replicated, proven, and what replication dropped repaired."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time

import pytest

from greenfly.demo.dataset import fill
from greenfly.demo.servers import TlsPair
from integrity.assess.choose import against_native
from integrity.endpoint import Identity
from integrity.settings import load_settings
from tests.cli import ASSESS_VARIABLE, Greenfly, dig
from tests.conftest import StartDragonfly, StartServer
from tests.native import ask, detail, native, released, stage, window, write_some
from tests.oracle import compare
from tests.runs import findings, migrate, report
from tests.servers import Store

pytestmark = pytest.mark.dragonfly

ASSESSED = {ASSESS_VARIABLE: "true"}
YEAR_MS = 365 * 24 * 3600 * 1000


@pytest.fixture(autouse=True)
def _at_once(blue: Store, green_dragonfly: Store) -> Iterator[None]:
    """A diskless source waits five seconds for further replicas before it sends."""
    blue.client.config_set("repl-diskless-sync-delay", 0)
    blue.client.config_resetstat()  # which commands were used is assessed
    yield
    released(green_dragonfly)


def test_everything_arrives_and_green_is_a_master_again(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    fill(blue.url, 2_000)
    blue.database(5).set("elsewhere", "too")
    done = native(greenfly, blue, green_dragonfly)
    assert done.exit_code == 0, done.stderr
    assert done.at("verdict") == "PASS"
    assert compare(blue.url, green_dragonfly.url) == []
    assert stage(green_dragonfly.url) == "master"
    assert green_dragonfly.client.set("written", "again")
    told = detail(done, "replicate")
    assert (told["attached"], told["full_syncs"], told["dropped"]) == (False, 1, {})
    assert told["only_offsets"] == ""


def test_the_sentinels_are_gone_afterwards(greenfly: Greenfly, blue: Store, green_dragonfly: Store) -> None:
    blue.client.set("a", 1)
    blue.database(3).set("b", 2)
    done = native(greenfly, blue, green_dragonfly, env={"GREENFLY_NATIVE__SENTINEL_KEY": "looked:for"})
    assert done.exit_code == 0, done.stderr
    assert detail(done, "replicate")["sentinels"] == [0, 3]
    for server in (blue, green_dragonfly):
        assert server.client.keys() == [b"a"]
        assert server.database(3).keys() == [b"b"]


def test_a_key_that_has_the_sentinels_name_is_left_alone(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    blue.client.set("greenfly:sentinel", "somebody's")
    done = native(greenfly, blue, green_dragonfly)
    assert done.exit_code == 0, done.stderr
    assert blue.client.get("greenfly:sentinel") == b"somebody's"
    assert green_dragonfly.client.get("greenfly:sentinel") == b"somebody's"
    assert "database 0" in str(detail(done, "replicate")["only_offsets"])


def test_where_blue_may_not_be_written_offsets_are_enough_and_it_is_said(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    blue.client.set("a", 1)
    rights = ["+@read", "+@connection", "+info", "+psync", "+replconf", "+role", "+config", "+memory"]
    ask(blue, "ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", *rights)
    try:
        reader = Store(blue.url.replace("://", "://reader:secret@"), blue.engine, blue.version)
        done = native(greenfly, reader, green_dragonfly)
    finally:
        ask(blue, "ACL", "DELUSER", "reader")
    assert done.exit_code == 0, done.stderr
    told = detail(done, "replicate")
    assert told["sentinels"] == []
    assert "offsets" in done.stderr
    assert told["only_offsets"]
    assert green_dragonfly.client.config_get("masterauth") == {"masterauth": ""}
    assert "secret" not in done.stdout + done.stderr


def test_what_green_knew_of_another_master_is_put_back(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    blue.client.set("a", 1)
    green_dragonfly.client.config_set("masterauth", "of another")
    try:
        done = native(greenfly, blue, green_dragonfly)
        assert done.exit_code == 0, done.stderr
        assert green_dragonfly.client.config_get("masterauth") == {"masterauth": "of another"}
    finally:
        green_dragonfly.client.config_set("masterauth", "")


def test_what_replication_drops_is_repaired_and_its_cause_is_told(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue)
    client = blue.client
    client.geoadd("places", [13.36, 38.11, "Palermo"])
    ask(blue, "XADD", "log", "1-1", "f", "v")
    client.set("far", 1)
    client.set("further", 1)

    def drop() -> None:
        ask(blue, "GEOSEARCHSTORE", "found", "places", "FROMLONLAT", 13, 38, "BYRADIUS", 500, "km")
        ask(blue, "COPY", "far", "copied", "DB", 1)
        ask(blue, "PFADD", "counted")
        ask(blue, "XSETID", "log", "9-9", "ENTRIESADDED", 12, "MAXDELETEDID", "5-5")
        ask(blue, "PEXPIREAT", "far", int(time() * 1000) + 10 * YEAR_MS)
        ask(blue, "EXPIRE", "further", 10 * YEAR_MS // 1000)

    with window(blue, green_dragonfly, drop) as env:
        done = native(greenfly, blue, green_dragonfly, env=env)
    assert done.exit_code == 0, done.stderr
    assert detail(done, "replicate")["dropped"] == {"GEOSEARCHSTORE": 1}
    # Dragonfly keeps no expiry that far away: it is set to the furthest that there is, and a rule says so.
    assert done.at("verdict") == "PASS WITH EXCEPTIONS"
    assert {(d.key, d.what) for d in compare(blue.url, green_dragonfly.url)} == {
        (b"far", "expiry"),
        (b"further", "expiry"),
    }
    assert green_dragonfly.client.ttl("far") > 8 * YEAR_MS // 1000
    repaired = {key for _, state, _, key in findings(done) if state == "repaired"}
    assert repaired == {b"found", b"copied", b"counted", b"log"}
    causes = detail(done, "repair")["causes"]
    assert isinstance(causes, dict)
    assert sum(causes.values()) >= 5
    assert any("further away" in cause for cause in causes)


def test_swapped_databases_are_repaired(greenfly: Greenfly, blue: Store, green_dragonfly: Store) -> None:
    for number in range(50):
        blue.client.set(f"here:{number}", number)
        blue.database(1).set(f"there:{number}", number)
    with window(blue, green_dragonfly, lambda: ask(blue, "SWAPDB", 0, 1)) as env:
        done = native(greenfly, blue, green_dragonfly, env=env)
    assert done.exit_code == 0, done.stderr
    assert done.at("verdict") == "PASS"
    assert compare(blue.url, green_dragonfly.url) == []
    assert detail(done, "replicate")["dropped"] == {"SWAPDB": 1}


@pytest.mark.parametrize("held", ["fail", "replace"])
def test_a_green_that_holds_keys_is_emptied_only_where_that_was_asked_for(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store, held: str
) -> None:
    blue.client.set("a", 1)
    green_dragonfly.client.set("precious", 1)
    done = native(greenfly, blue, green_dragonfly, "--conflict", held)
    if held == "fail":
        assert done.exit_code == 4
        assert green_dragonfly.client.get("precious") == b"1"
    else:
        assert done.exit_code == 0, done.stderr
        assert green_dragonfly.client.keys() == [b"a"]
        assert "1 key" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--include", "a*"),
        ("--map-db", "0=1"),
        ("--databases", "0"),
        ("--conflict", "skip"),
    ],
)
def test_what_replication_cannot_honour_is_refused(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store, arguments: tuple[str, str]
) -> None:
    blue.client.set("a", 1)
    done = native(greenfly, blue, green_dragonfly, *arguments)
    assert done.exit_code == 2
    assert green_dragonfly.client.dbsize() == 0


@pytest.mark.parametrize(
    ("url", "native", "named"),
    [
        ("redis+sentinel://127.0.0.1:7000/main", {}, "sentinel"),
        ("redis+cluster://127.0.0.1:7000", {"master_host": "blue"}, "native.master_host"),
        ("redis+cluster://127.0.0.1:7000", {"follow": "replication"}, "native.follow"),
    ],
)
def test_a_source_of_several_servers_is_not_always_replicated(
    url: str, native: dict[str, str], named: str
) -> None:
    settings = load_settings({"source": {"url": url}, "native": native}, environ={}).settings
    target = Identity(
        "", "dragonfly", "1.40.1", "", "master", "standalone", 0, 0, {}, True, "none", datetime.now(UTC)
    )
    reasons = against_native(settings, target)
    assert len(reasons) == 1
    assert named in reasons[0].lower()


def test_a_target_that_is_no_dragonfly_is_refused(
    greenfly: Greenfly, blue: Store, green_redis: Store
) -> None:
    blue.client.set("a", 1)
    done = native(greenfly, blue, green_redis)
    assert done.exit_code == 2
    assert green_redis.client.dbsize() == 0


def test_a_blue_that_green_cannot_reach_leaves_green_as_it_was(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    blue.client.set("a", 1)
    green_dragonfly.client.set("precious", 1)
    done = native(
        greenfly, blue, green_dragonfly, "--conflict", "replace", env={"GREENFLY_NATIVE__MASTER_PORT": "1"}
    )
    assert done.exit_code == 27
    assert stage(green_dragonfly.url) == "master"
    assert green_dragonfly.client.get("precious") == b"1"


def test_a_source_with_tls_and_a_password(
    greenfly: Greenfly, start_redis: StartServer, start_dragonfly: StartDragonfly, tls_pair: TlsPair
) -> None:
    blue = start_redis("--repl-diskless-sync-delay", "0", password="secret", tls=tls_pair)
    ca_file = str(tls_pair.ca_file)
    own = (f"--tls_cert_file={tls_pair.cert_file}", f"--tls_key_file={tls_pair.key_file}")
    green = start_dragonfly(
        "--tls_replication", f"--tls_ca_cert_file={ca_file}", *own, "--masterauth=something"
    )
    write_some(blue)
    done = native(greenfly, blue, green, "--source-ca", ca_file)
    assert done.exit_code == 0, done.stderr
    assert done.at("verdict") == "PASS"
    assert green.client.config_get("masterauth") == {"masterauth": "something"}
    assert green.client.dbsize() == blue.client.dbsize()


def test_the_report_tells_what_was_dropped_and_repaired(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue)
    ask(blue, "GEOADD", "places", 13.36, 38.11, "Palermo")
    drop = ("GEOSEARCHSTORE", "found", "places", "FROMLONLAT", 13, 38, "BYRADIUS", 500, "km")
    with window(blue, green_dragonfly, lambda: ask(blue, *drop)) as env:
        done = native(greenfly, blue, green_dragonfly, env=env)
    told = dig(report(done), "replication")
    assert dig(told, "dropped") == {"GEOSEARCHSTORE": 1}
    assert (dig(told, "repaired"), dig(told, "not_repaired")) == (1, 0)
    causes = dig(told, "causes")
    assert isinstance(causes, dict)
    assert any("GEOSEARCHSTORE" in cause for cause in causes)
    page = done.at("report", "html")
    assert isinstance(page, str)
    assert "Dropped: GEOSEARCHSTORE" in Path(page).read_text("utf-8")


def test_auto_takes_the_native_road_where_nothing_is_against_it_and_says_why(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue)
    done = migrate(greenfly, blue.url, green_dragonfly.url, "--strategy", "auto", env=ASSESSED)
    assert done.exit_code == 0, done.stderr
    chosen = detail(done, "assess")
    assert chosen["strategy"] == "native"
    assert "native" in done.stderr
    assert chosen["why"]
    assert detail(done, "replicate")["full_syncs"] == 1


def test_auto_copies_where_something_is_and_names_it(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue)
    done = migrate(
        greenfly, blue.url, green_dragonfly.url, "--strategy", "auto", "--exclude", "key:1*", env=ASSESSED
    )
    assert done.exit_code == 0, done.stderr
    chosen = detail(done, "assess")
    assert chosen["strategy"] == "copy"
    assert "rules" in str(chosen["why"])
