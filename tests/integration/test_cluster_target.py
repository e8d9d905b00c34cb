"""Whole commands with a cluster as the target: filled, compared, repaired, followed, restored, moved back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from greenfly.demo.process import TlsPair
from tests.cli import Greenfly
from tests.cluster import RedisCluster, deep, differences, fill_server
from tests.inprocess import between, run_here
from tests.raw import Argument, Raw
from tests.runs import detail, findings, migrate, verify
from tests.servers import Store

KEYS = 600
STRANGE: list[bytes] = [b"", b"{}", b"{}a", b"a}b", b"}{", b"{a}b}", b"{a{b}c", b"\x00\xff{\n}", b"x" * 2000]
"""Names that try what is taken for a key's tag."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    """The same, empty."""
    whole.flush()
    return whole


def send(url: str, *commands: tuple[Argument, ...]) -> None:
    with Raw(url) as raw:
        for command in commands:
            raw(*command)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=deep)])
def test_every_key_of_a_server_goes_to_the_master_that_serves_it(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster, workers: str
) -> None:
    fill_server(blue.url, KEYS)
    send(blue.url, *(("SET", name, b"x") for name in STRANGE))

    run = migrate(greenfly, blue.url, cluster.url, "--workers", workers)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "written") == detail(run, "verify", "compared") == KEYS + len(STRANGE)
    assert detail(run, "verify", "target_scanned") == KEYS + len(STRANGE)
    assert differences(blue.url, cluster) == []


def test_values_that_are_written_in_pieces_replace_the_old_ones_whatever_their_names(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster
) -> None:
    old: list[tuple[Argument, ...]] = [("SET", name, b"old") for name in STRANGE]
    cluster.send(old)
    for name in STRANGE:
        send(
            blue.url,
            ("RPUSH", name, *(b"%d" % n for n in range(3000))),
            ("PEXPIRE", name, 3_600_000),
        )

    run = migrate(
        greenfly,
        blue.url,
        cluster.url,
        "--conflict",
        "replace",
        env={"GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "4096"},
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "rewritten") == len(STRANGE)
    assert differences(blue.url, cluster) == []


def test_what_differs_on_any_master_is_found_and_repaired(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)
    assert migrate(greenfly, blue.url, cluster.url).exit_code == 0
    expected = []
    for number in range(20):
        name = b":%d" % number
        send(blue.url, ("SADD", b"changed" + name, b"1"), ("SET", b"missing" + name, b"2", "EX", 5000))
        cluster.send([("SADD", b"changed" + name, b"2"), ("SET", b"extra" + name, b"3")])
        expected += [
            ("value", "open", 0, b"changed" + name),
            ("missing", "open", 0, b"missing" + name),
            ("extra", "open", 0, b"extra" + name),
        ]

    run = verify(greenfly, blue.url, cluster.url)

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert findings(run) == sorted(expected)
    ids = between(blue.url, cluster.url)
    repaired = run_here(greenfly, "repair", str(run.at("run")), *ids, "--json", "--delete-extra")
    assert repaired.at("verdict") == "PASS", repaired.stderr
    assert differences(blue.url, cluster) == []


def test_a_target_of_which_one_master_holds_a_key_is_not_empty(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster
) -> None:
    fill_server(blue.url, 50)
    cluster.send([("SET", b"there", b"1")])

    run = migrate(greenfly, blue.url, cluster.url)

    assert run.exit_code == 4, run.stderr
    assert cluster.keys() == 1


def test_keys_of_another_database_are_refused_before_anything_is_written(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster
) -> None:
    fill_server(blue.url, 50)
    with Raw(blue.url, 3) as raw:
        raw("SET", "k", "v")

    run = migrate(greenfly, blue.url, cluster.url)

    assert run.exit_code == 4, run.stderr
    assert "database 3" in run.stderr
    assert cluster.keys() == 0
    folded = migrate(greenfly, blue.url, cluster.url, "--map-db", "3=0")
    assert folded.at("verdict") == "PASS", folded.stderr
    assert cluster.keys() == 51


def test_changes_are_followed_onto_every_master(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)
    assert migrate(greenfly, blue.url, cluster.url).exit_code == 0
    for number in range(30):
        send(
            blue.url,
            ("SET", b"{new}%d" % number, b"1", "PX", 600_000),
            ("ZADD", b"z%d" % number, number, b"m"),
            ("DEL", b"filler:%d" % number),
        )

    run = run_here(
        greenfly,
        "sync",
        *between(blue.url, cluster.url),
        *("--until-equal", "--no-snapshot", "--conflict", "replace", "--json"),
    )

    assert run.at("verdict") == "PASS", run.stderr
    assert differences(blue.url, cluster) == []


@pytest.mark.dragonfly
def test_a_dragonflys_changes_are_followed_onto_a_cluster_for_a_way_back(
    greenfly: Greenfly, green_dragonfly: Store, cluster: RedisCluster
) -> None:
    fill_server(green_dragonfly.url, KEYS)
    cluster.send([("SET", b"gone:%d" % number, b"1") for number in range(30)])

    run = run_here(
        greenfly,
        "sync",
        *between(green_dragonfly.url, cluster.url),
        *("--until-equal", "--no-snapshot", "--conflict", "replace", "--json"),
    )

    assert run.at("verdict") in {"PASS", "PASS WITH EXCEPTIONS"}, run.stderr
    assert differences(green_dragonfly.url, cluster) == []


@deep
def test_a_snapshot_is_restored_into_a_cluster(
    greenfly: Greenfly, blue: Store, cluster: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)
    taken = run_here(greenfly, "snapshot", "take", "--source", blue.url, "--json")
    assert taken.exit_code == 0, taken.stderr

    folder = str(taken.at("snapshot"))
    done = run_here(greenfly, "snapshot", "restore", folder, "--target", cluster.url, "--json")

    assert done.exit_code == 0, done.stderr
    assert differences(blue.url, cluster) == []


@deep
def test_a_cluster_behind_tls_with_a_user_of_few_rights_is_filled_and_followed(
    greenfly: Greenfly, blue: Store, tls_pair: TlsPair, tmp_path: Path
) -> None:
    fill_server(blue.url, KEYS)
    send(blue.url, ("RPUSH", "big", *(b"%030d" % number for number in range(4000))))
    rights = [
        "on",
        ">pw",
        "~*",
        "-@all",
        "+@read",
        "+@write",
        "+@connection",
        "+multi",
        "+exec",
        "+restore",
        "+info",
        "+time",
        "+asking",
    ]
    listing = [f"+cluster|{word}" for word in ("slots", "nodes", "countkeysinslot", "getkeysinslot")]
    flags = ("--conflict", "replace", "--target-ca", str(tls_pair.ca_file))
    env = {"GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "65536"}
    with RedisCluster(tmp_path / "tls", tls=tls_pair) as cluster:
        url = cluster.url.replace("://", "://mover:pw@")
        for node in cluster.nodes:
            node("ACL", "SETUSER", "mover", *rights, *listing[:2])
        refused = migrate(greenfly, blue.url, url, *flags, env=env)
        assert (refused.exit_code, cluster.keys()) == (24, 0), refused.stderr
        for node in cluster.nodes:
            node("ACL", "SETUSER", "mover", *listing)

        run = migrate(greenfly, blue.url, url, *flags, env=env)
        send(blue.url, ("SET", "late", "1"), ("DEL", "big"))
        synced = run_here(
            greenfly,
            "sync",
            *between(blue.url, url),
            *flags,
            *("--until-equal", "--no-snapshot", "--json"),
            env=env,
        )

        assert run.at("verdict") == synced.at("verdict") == "PASS", run.stderr + synced.stderr
        assert "pw@" not in run.stdout + run.stderr + synced.stdout + synced.stderr
        assert differences(blue.url, cluster) == []
