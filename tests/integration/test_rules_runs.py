"""Runs under rules: what is copied, where it goes, what is compared, and what the verdict says of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests import oracle
from tests.cli import Greenfly
from tests.proxy import Proxy
from tests.raw import Raw, as_int
from tests.runs import all_keys, detail, findings, migrate, verify
from tests.servers import Store

Place = tuple[int, bytes]


def fill(store: Store) -> None:
    """Keys of several names and types in three databases; no two share a name."""
    for number in range(3):
        client = store.database(number).pipeline(transaction=False)
        for n in range(40):
            client.set(f"user:{number}:{n}", f"value {n}")
            client.set(f"user:{number}:{n}:tmp", "gone tomorrow")
            client.hset(f"cart:{number}:{n}", mapping={"a": n, "b": "x" * n})
            client.rpush(f"queue:{number}:{n}", *range(n + 1))
            client.xadd(f"log:{number}:{n}", {"n": n}, id=f"{n + 1}-0")
            client.set(b"bin:%d:%d:\x00\xff" % (number, n), "bytes")
            client.set(f"size:{number}:{n}", "x" * (100 * n))
        client.execute()


def assert_moved(source: Store, target: Store, where: dict[Place, Place]) -> None:
    """By the oracle: exactly these keys are on the target, each with the value that it has on the source."""
    assert all_keys(target) == set(where.values())
    for (database, key), (onto, name) in where.items():
        assert oracle.read(source.url, database, key) == oracle.read(target.url, onto, name), key


def same_place(keys: Iterable[Place]) -> dict[Place, Place]:
    return {place: place for place in keys}


# -- which keys --------------------------------------------------------------------------------------------------------

SELECTIONS: dict[str, tuple[tuple[str, ...], Callable[[bytes], bool]]] = {
    "included": (
        ("--include", "user:*", "--include", "c?rt:[12]:*"),
        lambda key: key.startswith((b"user:", b"cart:1:", b"cart:2:")),
    ),
    "excluded": (
        ("--exclude", "*:tmp", "--exclude", "log:*"),
        lambda key: not key.endswith(b":tmp") and key[:4] != b"log:",
    ),
    "exclude wins": (
        ("--include", "user:*", "--exclude", "*:tmp"),
        lambda key: key.startswith(b"user:") and not key.endswith(b":tmp"),
    ),
    "bytes": (("--include", r"bin:*:\x00\xff"), lambda key: key.startswith(b"bin:")),
    "types": (
        ("--include-type", "hash", "--include-type", "STREAM"),
        lambda key: key.startswith((b"cart:", b"log:")),
    ),
    "no such types": (
        ("--exclude-type", "string"),
        lambda key: key.startswith((b"cart:", b"log:", b"queue:")),
    ),
    "types of names": (
        ("--include", "*:1:*", "--exclude-type", "stream"),
        lambda key: b":1:" in key and key[:4] != b"log:",
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_only_what_the_rules_select_is_copied_and_compared(
    blue: Store, green: Store, greenfly: Greenfly, name: str
) -> None:
    flags, selects = SELECTIONS[name]
    fill(blue)
    everything = all_keys(blue)
    selected = {place for place in everything if selects(place[1])}

    run = migrate(greenfly, blue.url, green.url, *flags)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert_moved(blue, green, same_place(selected))
    left_out = len(everything) - len(selected)
    for phase in ("stream", "verify"):
        excluded = detail(run, phase, "excluded")
        assert isinstance(excluded, dict)
        assert sum(excluded.values()) == left_out > 0
    assert detail(run, "verify", "compared") == len(selected)
    assert f"left out {left_out:,} keys" in str(run.at("reason"))
    again = verify(greenfly, blue.url, green.url, *flags)
    assert (again.exit_code, again.at("verdict")) == (0, "PASS")
    without = verify(greenfly, blue.url, green.url)
    assert (without.exit_code, without.at("findings", "open")) == (1, {"missing": left_out})


def test_only_keys_within_the_limits_are_copied(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue)
    sizes: dict[Place, int] = {}
    for number in range(3):
        with Raw(blue.url, number) as raw:
            sizes |= {(number, key): as_int(raw("MEMORY", "USAGE", key)) for key in Raw.keys(raw)}
    selected = {place for place, size in sizes.items() if 200 <= size <= 2048}

    run = migrate(greenfly, blue.url, green.url, "--min-bytes", "200", "--max-bytes", "2KiB")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert_moved(blue, green, same_place(selected))
    assert detail(run, "stream", "excluded") == {
        "min_bytes": sum(size < 200 for size in sizes.values()),
        "max_bytes": sum(size > 2048 for size in sizes.values()),
    }


def test_rules_that_leave_out_everything_are_inconclusive_and_say_why(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    for n in range(7):
        blue.client.set(f"k:{n}", "v")

    run = migrate(greenfly, blue.url, green_redis.url, "--include", "nothing:*")

    assert (run.exit_code, run.at("verdict")) == (3, "INCONCLUSIVE")
    assert "left out 7 keys" in str(run.at("reason"))
    assert all_keys(green_redis) == set()


# -- where they go -----------------------------------------------------------------------------------------------------


def test_databases_are_mapped_and_merged(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue)
    onto = {0: 0, 1: 9, 2: 0}

    run = migrate(greenfly, blue.url, green.url, "--map-db", "1=9", "--map-db", "2=0")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert_moved(blue, green, {(n, key): (onto[n], key) for n, key in all_keys(blue)})


def test_names_are_changed_and_swapped(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue)
    flags = (
        "--rename",
        "user:1:=person:one:",
        "--rename",
        "user:=",
        "--rename",
        "cart:=log:",
        "--rename",
        "log:=cart:",
    )

    def renamed(key: bytes) -> bytes:
        for old, new in (
            (b"user:1:", b"person:one:"),
            (b"user:", b""),
            (b"cart:", b"log:"),
            (b"log:", b"cart:"),
        ):
            if key.startswith(old):
                return new + key[len(old) :]
        return key

    run = migrate(greenfly, blue.url, green.url, *flags)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert_moved(blue, green, {(n, key): (n, renamed(key)) for n, key in all_keys(blue)})
    green.client.set("0:3", "damaged")
    green.client.delete("0:4")
    green.client.set("user:0:5", "nothing keeps this name")
    damaged = verify(greenfly, blue.url, green.url, *flags)
    assert findings(damaged) == [
        ("extra", "open", 0, b"user:0:5"),
        ("missing", "open", 0, b"user:0:4"),
        ("value", "open", 0, b"user:0:3"),
    ]


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_the_conflict_policy_is_about_the_place_a_key_goes_to(
    blue: Store, green: Store, greenfly: Greenfly, policy: str
) -> None:
    blue.client.set("old:a", "of blue")
    blue.client.rpush("old:b", "of blue", "too")
    green.database(3).set("new:a", "of green")
    green.database(3).set("new:b", "of green")
    flags = ("--map-db", "0=3", "--rename", "old:=new:", "--conflict", policy)

    run = migrate(greenfly, blue.url, green.url, *flags)

    assert run.exit_code == 0, run.stderr
    assert all_keys(green) == {(3, b"new:a"), (3, b"new:b")}
    if policy == "replace":
        assert run.at("verdict") == "PASS"
        assert green.database(3).get("new:a") == b"of blue"
        assert green.database(3).lrange("new:b", 0, -1) == [b"of blue", b"too"]
    else:
        assert run.at("verdict") == "PASS WITH EXCEPTIONS"
        assert green.database(3).mget("new:a", "new:b") == [b"of green"] * 2


# -- collisions --------------------------------------------------------------------------------------------------------


def test_two_keys_that_a_merge_sends_to_one_place_are_a_collision(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for number in (0, 1):
        for key in ("same name", f"only in {number}"):
            blue.database(number).set(key, f"of database {number}")

    run = migrate(greenfly, blue.url, green.url, "--map-db", "1=0")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    found = findings(run)
    assert [(kind, state, key) for kind, state, _, key in found] == [("collision", "open", b"same name")]
    assert all_keys(green) == {(0, key) for key in (b"same name", b"only in 0", b"only in 1")}
    lost = f"of database {found[0][2]}".encode()
    assert green.client.get("same name") != lost, "the finding names the key whose value is not there"


def test_a_renamed_key_that_meets_another_is_a_collision(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("old:1", "renamed")
    blue.client.rpush("new:1", "keeps its name")
    blue.client.set("old:2", "renamed")

    run = migrate(greenfly, blue.url, green.url, "--rename", "old:=new:")

    assert run.exit_code == 1
    found = findings(run)
    assert [kind for kind, *_ in found] == ["collision"]
    assert found[0][3] in (b"old:1", b"new:1")
    apart = migrate(
        *(greenfly, blue.url, green.url, "--conflict", "replace", "--rename", "old:=new:"),
        *("--exclude", "new:*"),
    )
    assert (apart.exit_code, apart.at("verdict")) == (0, "PASS"), "a rule can leave one of the two out"
    assert green.client.get("new:1") == b"renamed"


def test_keys_that_a_merge_brings_together_without_a_clash_are_no_collision(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    for number in range(3):
        blue.database(number).set(f"k:{number}", "v")
    assert migrate(greenfly, blue.url, green.url, "--map-db", "1=0", "--map-db", "2=0").exit_code == 0
    green.client.set("k:1", "damaged")

    run = verify(greenfly, blue.url, green.url, "--map-db", "1=0", "--map-db", "2=0")

    assert findings(run) == [("value", "open", 1, b"k:1")]


# -- keys that only the target has -------------------------------------------------------------------------------------


def test_keys_of_the_target_that_the_rules_leave_out_are_out_of_scope_and_others_are_extra(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    fill(blue)
    green.client.set("log:of green", "left alone")
    green.client.set("user:0:3:tmp", "left alone")
    flags = ("--include", "user:*", "--exclude", "*:tmp")

    run = migrate(greenfly, blue.url, green.url, *flags, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "verify", "out_of_scope") == 2
    assert green.client.get("user:0:3:tmp") == b"left alone"
    green.database(1).set("user:of green", "extra")
    again = verify(greenfly, blue.url, green.url, *flags)
    assert (again.exit_code, findings(again)) == (1, [("extra", "open", 1, b"user:of green")])


def test_types_that_are_left_out_are_out_of_scope_on_the_target_too(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.set("k", "v")
    green.client.rpush("a list of green", 1)
    green.client.set("a string of green", "v")

    run = migrate(greenfly, blue.url, green.url, "--exclude-type", "list", "--conflict", "replace")

    assert (run.exit_code, findings(run)) == (1, [("extra", "open", 0, b"a string of green")])
    assert detail(run, "verify", "out_of_scope") == 1


# -- what is recorded --------------------------------------------------------------------------------------------------


def cut_after(count: int) -> Callable[[bytes], tuple[bytes, bool]]:
    """Cut connections once so many keys were written."""
    seen = 0

    def change(data: bytes) -> tuple[bytes, bool]:
        nonlocal seen
        seen += data.count(b"cart:")
        return (data, False) if seen < count else (b"", True)

    return change


def test_a_resumed_run_goes_on_under_the_rules_it_was_started_with(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    fill(blue)
    flags = ("--include", "cart:*", "--exclude", "cart:*:7", "--map-db", "2=6", "--rename", "cart:=cart:of:")
    small = {"GREENFLY_COPY__BATCH_KEYS": "10", "GREENFLY_RECONNECT_SECONDS": "0"}
    with Proxy(green.url, cut_after(50)) as proxy:
        broken = migrate(greenfly, blue.url, proxy.url, *flags, env=small)
        assert broken.exit_code == 20, broken.stderr
        assert 0 < len(all_keys(green)) < 117
        proxy.change = lambda data: (data, False)

        run = migrate(greenfly, blue.url, proxy.url, "--resume")

    assert (run.exit_code, run.at("verdict"), run.at("run")) == (0, "PASS", broken.at("run")), run.stderr
    assert detail(run, "check", "rules") == {
        "include": ["cart:*"],
        "exclude": ["cart:*:7"],
        "databases": {"2": 6},
        "rename": [{"from": "cart:", "to": "cart:of:"}],
    }
    moved = {
        (n, key): (6 if n == 2 else n, b"cart:of:" + key.removeprefix(b"cart:"))
        for n, key in all_keys(blue)
        if key.startswith(b"cart:") and not key.endswith(b":7")
    }
    assert_moved(blue, green, moved)
    assert detail(run, "stream", "written") == len(moved)


def test_a_run_without_rules_records_none(blue: Store, green_redis: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")

    run = migrate(greenfly, blue.url, green_redis.url)

    assert detail(run, "check", "rules") == {}
    assert "rules" not in str(run.at("reason"))
