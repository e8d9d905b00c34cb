"""``greenfly repair``: exactly what a run found to differ is written again, and nothing else is touched."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from integrity.errors import StopSignal
from integrity.ledger import RunHandle
from integrity.transfer.temporary import PREFIX as TEMPORARY_PREFIX
from tests.cli import CompletedRun, Greenfly, dig
from tests.damage import damage
from tests.inprocess import between, run_here
from tests.oracle import compare
from tests.proxy import Proxy
from tests.raw import Raw
from tests.servers import Store


def migrate(greenfly: Greenfly, source: str, target: str, *arguments: str) -> CompletedRun:
    return run_here(greenfly, "migrate", *between(source, target), "--no-snapshot", "--json", *arguments)


def verify(greenfly: Greenfly, source: str, target: str, *arguments: str) -> CompletedRun:
    return run_here(greenfly, "verify", *between(source, target), "--json", *arguments)


def found_different(greenfly: Greenfly, source: str, target: str, *arguments: str) -> str:
    """The id of a verify run with verdict FAIL."""
    run = verify(greenfly, source, target, *arguments)
    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    return str(run.at("run"))


def repair(
    greenfly: Greenfly,
    run: str,
    source: str,
    target: str,
    *arguments: str,
    env: dict[str, str] | None = None,
) -> CompletedRun:
    return run_here(greenfly, "repair", run, *between(source, target), "--json", *arguments, env=env)


def ask(greenfly: Greenfly, query: str, *values: str) -> list[tuple[object, ...]]:
    """Rows straight from the ledger's file."""
    path = greenfly.state_dir / "ledger.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        return database.execute(query, values).fetchall()


def states(greenfly: Greenfly, run: str) -> Counter[object]:
    """How many findings of a run are in each state."""
    return Counter(state for (state,) in ask(greenfly, "SELECT state FROM finding WHERE run_id = ?", run))


def actions(greenfly: Greenfly, run: CompletedRun) -> Counter[object]:
    """What a repair run recorded."""
    query = "SELECT action FROM repair WHERE run_id = ?"
    return Counter(action for (action,) in ask(greenfly, query, str(run.at("run"))))


def figure(run: CompletedRun, *names: str) -> object:
    """One value of the repair phase's detail."""
    phases = run.at("phases")
    assert isinstance(phases, list)
    return dig(next(phase for phase in phases if dig(phase, "name") == "repair"), "detail", *names)


def contradictions(run: CompletedRun) -> object:
    """What the report says against its own verdict."""
    return dig(
        json.loads(Path(str(run.at("report", "json"))).read_text("utf-8")), "verdict", "contradictions"
    )


def calls(store: Store) -> dict[str, int]:
    """How often the server executed each command."""
    stats = store.client.info("commandstats")
    assert isinstance(stats, dict)
    counts = {}
    for name, facts in stats.items():
        if str(name).startswith("cmdstat_"):  # Dragonfly also counts commands that it does not know
            number = dig(facts, "calls")
            assert isinstance(number, int)
            counts[str(name).removeprefix("cmdstat_").lower()] = number
    return counts


def all_keys(store: Store) -> set[tuple[int, bytes]]:
    found = set()
    for database in range(16):
        with Raw(store.url, database) as raw:
            found |= {(database, key) for key in Raw.keys(raw)}
    return found


@pytest.fixture(autouse=True)
def no_temporary_keys_are_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, no key of ours stays behind on any server."""
    stores = [
        request.getfixturevalue(name)
        for name in ("blue", "green", "green_redis")
        if name in request.fixturenames
    ]
    yield
    for store in stores:
        assert [place for place in all_keys(store) if place[1].startswith(TEMPORARY_PREFIX)] == []


# -- all kinds of damage -----------------------------------------------------------------------------------------------


def test_every_kind_of_damage_is_repaired_and_extra_keys_only_when_asked(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    servers = (blue.url, green.url)
    fill(blue.url, keys=4_000, seed=31)
    assert migrate(greenfly, *servers).exit_code == 0
    done = damage(green.url, seed=31, each=5)
    broken = found_different(greenfly, *servers)
    damaged = compare(*servers)
    assert len(damaged) == len(done) == 60
    before = ask(greenfly, "SELECT count(*) FROM event"), states(greenfly, broken)

    planned = repair(greenfly, broken, *servers, "--dry-run", "--delete-extra")
    listed = repair(greenfly, broken, *servers, "--dry-run")

    assert planned.exit_code == listed.exit_code == 0
    assert planned.at("counts") == {"copy": 45, "set the expiry": 10, "delete": 5}
    assert listed.at("counts") == {"copy": 45, "set the expiry": 10, "keep": 5}
    plan = planned.at("plan")
    assert isinstance(plan, list)
    places = {(dig(line, "database"), bytes.fromhex(str(dig(line, "key", "hex")))) for line in plan}
    assert places == {(item.database, item.key) for item in done}
    assert compare(*servers) == damaged, "a dry run writes to no server"
    assert (ask(greenfly, "SELECT count(*) FROM event"), states(greenfly, broken)) == before

    first = repair(greenfly, broken, *servers)

    assert (first.exit_code, first.at("verdict")) == (1, "FAIL"), first.stderr
    assert [(d.what, d.key) for d in compare(*servers)] == [
        (d.what, d.key) for d in damaged if d.what == "extra"
    ]
    assert actions(greenfly, first) == {"copied": 55, "not-repaired": 5}
    assert states(greenfly, broken) == {"repaired": 55, "open": 5}
    assert first.at("findings", "open") == {"extra": 5}
    assert first.at("repairs") == broken

    second = repair(greenfly, "latest", *servers, "--delete-extra")

    assert (second.exit_code, second.at("verdict")) == (0, "PASS"), second.stderr
    assert second.at("repairs") == broken, "the repair of a repair goes on with the run that was repaired"
    assert actions(greenfly, second) == {"deleted": 5}
    assert states(greenfly, broken) == {"repaired": 60}
    assert compare(*servers) == []
    assert contradictions(first) == contradictions(second) == []
    shown = run_here(greenfly, "runs", "show", broken, "--json")
    assert (shown.at("verdict"), shown.at("findings", "repaired")) == (
        "FAIL",
        Counter(d.expected for d in done),
    )
    assert run_here(greenfly, "audit", "verify").exit_code == 0
    assert verify(greenfly, *servers).at("verdict") == "PASS"


def test_each_repair_is_recorded_with_both_sides_before_and_after(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("k", "right")
    green.client.set("k", "wrong")
    broken = found_different(greenfly, blue.url, green.url)

    run = repair(greenfly, broken, blue.url, green.url)

    [(ours, theirs, ours_then, theirs_then, said)] = ask(
        greenfly,
        "SELECT before_source_digest, before_target_digest, after_source_digest, after_target_digest, before_detail "
        "FROM repair WHERE run_id = ?",
        str(run.at("run")),
    )
    assert ours == ours_then == theirs_then
    assert theirs not in {None, ours}
    assert said
    kinds = [
        str(kind) for (kind,) in ask(greenfly, "SELECT kind FROM event WHERE run_id = ?", str(run.at("run")))
    ]
    assert [kind for kind in kinds if kind.startswith("repair.")] == ["repair.begun", "repair.applied"]


def test_a_repair_touches_nothing_else(blue: Store, green_redis: Store, greenfly: Greenfly) -> None:
    for number in range(50):
        blue.client.set(f"k:{number}", "v")
    assert migrate(greenfly, blue.url, green_redis.url).exit_code == 0
    green_redis.client.set("k:7", "damaged")
    broken = found_different(greenfly, blue.url, green_redis.url)
    green_redis.client.set("k:8", "damaged later")
    before = calls(green_redis)

    run = repair(greenfly, broken, blue.url, green_redis.url)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert "Nothing else was compared." in str(run.at("reason"))
    assert calls(green_redis)["restore"] - before.get("restore", 0) == 1
    assert green_redis.client.get("k:8") == b"damaged later", "it was equal when the run looked at it"


def test_an_expiry_alone_is_set_without_copying_the_value(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for name in ("later", "never", "sooner"):
        blue.client.set(name, "v", ex=5_000)
    blue.client.set("for ever", "v")
    assert migrate(greenfly, blue.url, green.url).exit_code == 0
    green.client.expire("later", 9_000)
    green.client.persist("never")
    green.client.expire("sooner", 2_000)
    green.client.expire("for ever", 2_000)
    broken = found_different(greenfly, blue.url, green.url)
    before = calls(green)

    run = repair(greenfly, broken, blue.url, green.url)

    assert (run.exit_code, figure(run, "outcomes", "expiry set")) == (0, 4), run.stderr
    assert calls(green).get("restore") == before.get("restore")
    assert calls(green).get("rename") == before.get("rename")
    assert compare(blue.url, green.url) == []


def test_a_big_value_is_repaired_in_pieces(blue: Store, green: Store, greenfly: Greenfly) -> None:
    for name in ("damaged", "missing", "sound"):
        blue.client.hset(name, mapping={f"field {n}": f"value {n}" * 3 for n in range(3_000)})
    blue.client.expire("damaged", 4_000)
    env = {"GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "20000", "GREENFLY_BIG_VALUES__PIECE_BYTES": "20000"}
    assert migrate(greenfly, blue.url, green.url).exit_code == 0
    green.client.hset("damaged", "field 7", "another")
    green.client.delete("missing")
    broken = found_different(greenfly, blue.url, green.url)

    run = repair(greenfly, broken, blue.url, green.url, env=env)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert (figure(run, "rewritten"), figure(run, "restored")) == (2, 0)
    assert compare(blue.url, green.url) == []


def test_a_key_whose_payload_the_target_refuses_is_written_with_typed_commands(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.rpush("list", *(f"element {n}" for n in range(20)))
    green.client.set("list", "of another type")

    def without_restore(data: bytes) -> tuple[bytes, bool]:
        return data.replace(b"\r\nRESTORE\r\n", b"\r\nRESTORX\r\n"), False

    with Proxy(green.url, without_restore) as proxy:
        broken = found_different(greenfly, blue.url, proxy.url)
        run = repair(greenfly, broken, blue.url, proxy.url)

    assert (run.exit_code, figure(run, "rewritten")) == (0, 1), run.stderr
    assert compare(blue.url, green.url) == []


def test_a_key_that_the_target_does_not_take_keeps_its_old_value_and_stays_open(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.rpush("list", *(f"element {n}" for n in range(20)))
    blue.client.set("string", "right")
    green.client.rpush("list", "old value")
    green.client.set("string", "wrong")

    with Proxy(green.url) as proxy:
        broken = found_different(greenfly, blue.url, proxy.url)
        proxy.change = refuse_the_list
        run = repair(greenfly, broken, blue.url, proxy.url)

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert green.client.lrange("list", 0, -1) == [b"old value"]
    assert green.client.get("string") == b"right"
    assert states(greenfly, broken) == {"repaired": 1, "open": 1}
    assert run.at("findings", "open") == {"refused": 1, "value": 1}


def refuse_the_list(data: bytes) -> tuple[bytes, bool]:
    """Spoil the names of the commands that write the list."""
    if b"element" in data:
        data = data.replace(b"\r\nRESTORE\r\n", b"\r\nRESTORX\r\n").replace(
            b"\r\nRPUSH\r\n", b"\r\nRPUSX\r\n"
        )
    return data, False


# -- what the run was about --------------------------------------------------------------------------------------------


def test_the_rules_and_databases_of_the_run_hold(blue: Store, green: Store, greenfly: Greenfly) -> None:
    servers = (blue.url, green.url)
    rules = ("--databases", "1", "--map-db", "1=0", "--rename", "old:=new:", "--exclude", "*:tmp")
    for name in ("old:1", "old:2", "old:tmp", "other"):
        blue.database(1).set(name, "of blue")
    blue.client.set("elsewhere", "of blue")
    assert migrate(greenfly, *servers, *rules).exit_code == 0
    green.client.set("new:1", "damaged")
    green.client.delete("new:2")
    green.client.set("new:tmp", "of green")
    green.client.set("extra", "of green")
    broken = found_different(greenfly, *servers, *rules)

    run = repair(greenfly, broken, *servers, "--delete-extra")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    held = {key: green.client.get(key) for _, key in all_keys(green)}
    assert all_keys(green) == {(0, key) for key in held}
    assert held == {b"new:1": b"of blue", b"new:2": b"of blue", b"other": b"of blue", b"new:tmp": b"of green"}
    assert verify(greenfly, *servers, *rules).exit_code == 0


def test_an_extra_key_that_the_source_holds_outside_the_runs_scope_is_not_deleted(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    rules = ("--databases", "1", "--map-db", "1=0")
    blue.database(1).set("moved", "v")
    blue.client.set("kept", "of blue")
    green.client.set("moved", "v")
    green.client.set("kept", "of green")
    broken = found_different(greenfly, blue.url, green.url, *rules)

    run = repair(greenfly, broken, blue.url, green.url, "--delete-extra")

    assert (run.exit_code, actions(greenfly, run)) == (1, {"not-repaired": 1}), run.stderr
    assert green.client.get("kept") == b"of green"


def test_a_collision_is_reported_and_not_copied(blue: Store, green: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "of database 0")
    blue.database(1).set("k", "of database 1")
    blue.client.set("sound", "v")
    broken = str(migrate(greenfly, blue.url, green.url, "--map-db", "1=0").at("run"))
    assert sum(states(greenfly, broken).values()) == 1
    value = green.client.get("k")
    before = calls(green)

    run = repair(greenfly, broken, blue.url, green.url)
    green.client.delete("k")
    missing = found_different(greenfly, blue.url, green.url, "--map-db", "1=0")
    again = repair(greenfly, missing, blue.url, green.url)

    assert (run.exit_code, figure(run, "outcomes", "collision")) == (1, 1), run.stderr
    assert "another key of the source" in str(run.at("reason"))
    assert value is not None
    assert (again.exit_code, figure(again, "outcomes", "collision")) == (1, 2), again.stderr
    assert green.client.get("k") is None
    assert calls(green).get("restore") == before.get("restore")


# -- what changed since the run ----------------------------------------------------------------------------------------


def test_a_key_that_agrees_by_now_is_settled_and_not_written(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("a", "right")
    blue.client.set("b", "right")
    green.client.set("a", "wrong")
    green.client.set("b", "wrong")
    broken = found_different(greenfly, blue.url, green.url)
    green.client.set("a", "right")

    run = repair(greenfly, broken, blue.url, green.url)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert actions(greenfly, run) == {"settled": 1, "copied": 1}
    assert states(greenfly, broken) == {"settled": 1, "repaired": 1}
    assert "1 re-copied" in str(run.at("reason"))


def test_a_key_that_the_source_lost_since_is_extra(blue: Store, green: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "right")
    blue.client.set("other", "v")
    green.client.set("k", "wrong")
    broken = found_different(greenfly, blue.url, green.url)
    blue.client.delete("k")

    kept = repair(greenfly, broken, blue.url, green.url)
    still_there = green.client.get("k")
    deleted = repair(greenfly, broken, blue.url, green.url, "--delete-extra")

    assert (kept.exit_code, still_there) == (1, b"wrong"), kept.stderr
    assert kept.at("findings", "open") == {"extra": 1}
    assert (deleted.exit_code, green.client.get("k")) == (0, None), deleted.stderr


def test_an_extra_key_that_the_source_got_since_is_copied(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("other", "v")
    green.client.set("other", "v")
    green.client.set("k", "of green")
    broken = found_different(greenfly, blue.url, green.url)
    blue.client.set("k", "of blue")

    run = repair(greenfly, broken, blue.url, green.url, "--delete-extra")

    assert (run.exit_code, actions(greenfly, run)) == (0, {"copied": 1}), run.stderr
    assert compare(blue.url, green.url) == []


def test_a_key_that_changes_while_it_is_copied_is_copied_once_more(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("k", "first")
    green.client.set("k", "wrong")

    def meanwhile(data: bytes) -> tuple[bytes, bool]:
        if b"RESTORE" in data and blue.client.get("k") == b"first":
            blue.client.set("k", "second")
        return data, False

    with Proxy(green.url, meanwhile) as proxy:
        broken = found_different(greenfly, blue.url, proxy.url)
        run = repair(greenfly, broken, blue.url, proxy.url)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert green.client.get("k") == b"second"
    assert run.at("findings") == {"open": {}, "settled": {"value": 1}}
    assert actions(greenfly, run) == {"copied": 1}


def test_a_key_that_the_source_gets_right_before_it_would_be_deleted_is_kept(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for store in (blue, green):
        store.client.set("other", "v")
    green.client.set("k", "of green")
    asked = 0

    def meanwhile(data: bytes) -> tuple[bytes, bool]:
        nonlocal asked
        asked += data.count(b"EXISTS")
        if asked == 2:
            blue.client.set("k", "of blue")
        return data, False

    with Proxy(blue.url) as proxy:
        broken = found_different(greenfly, proxy.url, green.url)
        before = calls(green)
        proxy.change = meanwhile
        run = repair(greenfly, broken, proxy.url, green.url, "--delete-extra")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert asked >= 2
    assert calls(green).get("unlink") == before.get("unlink") or green.engine == "dragonfly"
    assert actions(greenfly, run) == {"copied": 1}
    assert green.client.get("k") == b"of blue"


def test_kept_extra_keys_are_exceptions_where_they_are_allowed(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("k", "right")
    green.client.set("k", "wrong")
    green.client.set("extra", "of green")
    broken = found_different(greenfly, blue.url, green.url)

    run = repair(greenfly, broken, blue.url, green.url, "--allow-extra")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS"), run.stderr
    assert run.at("findings", "exception") == {"extra": 1}
    assert green.client.get("extra") == b"of green"


def test_a_run_without_open_findings_needs_no_repair(blue: Store, green: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    moved = migrate(greenfly, blue.url, green.url)

    run = repair(greenfly, "latest", blue.url, green.url)

    assert (run.exit_code, run.at("repairs"), run.at("verdict")) == (0, moved.at("run"), None)
    assert ask(greenfly, "SELECT count(*) FROM run") == [(1,)]


# -- refused -----------------------------------------------------------------------------------------------------------


def assert_refused(greenfly: Greenfly, run: CompletedRun, green: Store) -> None:
    """Nothing was written to the target, and no run was begun."""
    assert run.exit_code == 4, run.stdout
    assert run.at("error", "kind") == "Refused"
    assert green.client.get("k") == b"wrong"
    assert ask(greenfly, "SELECT count(*) FROM run WHERE kind = 'repair'") == [(0,)]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_other_servers_than_those_of_the_run_are_refused(
    blue: Store, green_redis: Store, greenfly: Greenfly, dry: tuple[str, ...]
) -> None:
    blue.client.set("k", "right")
    green_redis.client.set("k", "wrong")
    broken = found_different(greenfly, blue.url, green_redis.url)

    with Proxy(blue.url) as blue_elsewhere, Proxy(green_redis.url) as green_elsewhere:
        for source, target in (
            (blue_elsewhere.url, green_redis.url),
            (blue.url, green_elsewhere.url),
            (green_redis.url, blue.url),
            (f"{blue.url.rstrip('/')}/0", green_redis.url),
        ):
            assert_refused(greenfly, repair(greenfly, broken, source, target, *dry), green_redis)


def test_a_run_that_is_still_running_or_compared_nothing_is_refused(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    servers = (blue.url, green_redis.url)
    blue.client.set("k", "right")
    green_redis.client.set("k", "wrong")
    taken = run_here(greenfly, "snapshot", "take", "--source", blue.url, "--json")
    assert taken.exit_code == 0, taken.stderr
    stopped = migrate(greenfly, *servers)
    assert stopped.exit_code == 4, "the target is not empty, so nothing was copied"
    broken = found_different(greenfly, *servers)
    for run in (str(taken.at("run")), str(stopped.at("run"))):
        assert_refused(greenfly, repair(greenfly, run, *servers), green_redis)

    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3", timeout=10)) as database:
        database.execute("UPDATE run SET state = 'running', lease_until = '2999-01-01 00:00:00.000000'")
        database.commit()
    assert_refused(greenfly, repair(greenfly, broken, *servers), green_redis)
    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3", timeout=10)) as database:
        database.execute("UPDATE run SET lease_until = '2000-01-01 00:00:00.000000'")
        database.commit()
    assert repair(greenfly, broken, *servers).exit_code == 0, "a run whose process is gone can be repaired"


# -- killed ------------------------------------------------------------------------------------------------------------


def test_a_killed_repair_goes_on_with_the_rest(blue: Store, green: Store, greenfly: Greenfly) -> None:
    servers = (blue.url, green.url)
    for number in range(1_200):
        blue.client.set(f"k:{number}", f"value {number}")
        green.client.set(f"k:{number}", "damaged")
    broken = found_different(greenfly, *servers)
    process = greenfly.start(
        "repair", broken, *between(*servers), "--keys-per-second", "300", env={"GREENFLY_LEASE_SECONDS": "1"}
    )
    deadline = time.monotonic() + 60
    while ask(greenfly, "SELECT count(*) FROM repair") < [(150,)]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [(killed,)] = ask(greenfly, "SELECT id FROM run WHERE kind = 'repair'")
    green.client.set(f"greenfly:tmp:{killed}:repair:0", "what it was about to rename")
    done = states(greenfly, broken)["repaired"]
    assert 150 <= done < 1_200

    early = repair(greenfly, broken, *servers)
    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3", timeout=10)) as database:
        database.execute("UPDATE run SET lease_until = '2000-01-01 00:00:00.000000' WHERE kind = 'repair'")
        database.commit()
    run = repair(greenfly, broken, *servers)

    assert early.exit_code == 4, "the killed process still owns its lease"
    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert figure(run, "findings") == 1_200 - done
    assert states(greenfly, broken)["open"] == 0
    assert compare(*servers) == []
    assert run_here(greenfly, "audit", "verify").exit_code == 0


def test_a_repair_that_was_stopped_before_it_recorded_is_made_good_by_the_next(
    blue: Store, green: Store, greenfly: Greenfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue.client.set("k", "right")
    green.client.set("k", "wrong")
    broken = found_different(greenfly, blue.url, green.url)

    def stopped(*arguments: object) -> None:
        raise StopSignal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunHandle, "record_repairs", stopped)
        first = repair(greenfly, broken, blue.url, green.url)
    assert first.exit_code == 143
    assert "--resume" not in str(first.at("error", "remedy"))
    assert (green.client.get("k"), states(greenfly, broken)) == (b"right", {"open": 1})

    second = repair(greenfly, broken, blue.url, green.url)

    assert (second.exit_code, second.at("verdict")) == (0, "PASS"), second.stderr
    assert actions(greenfly, second) == {"settled": 1}
    query = "SELECT detail FROM repair WHERE run_id = ?"
    [(detail,)] = ask(greenfly, query, str(second.at("run")))
    assert f"repair {first.at('run')} broke off" in str(detail)
