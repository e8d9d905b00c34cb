"""`--strategy native` with a cluster as the source: one Dragonfly is a replica of every master at once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import pytest

from greenfly.demo import servers as demo_servers
from greenfly.demo.servers import TlsPair, find_dragonfly
from integrity.assess.acl_line import PASSWORD, USER, least_privilege
from integrity.assess.needed_rights import RunPart, rights
from integrity.cluster.slots import key_slot
from integrity.native.sentinel import Sentinels
from tests.cli import ASSESS_VARIABLE, CompletedRun, Greenfly
from tests.cluster import RedisCluster, deep, differences
from tests.conftest import StartDragonfly
from tests.inprocess import between, run_here
from tests.native import detail, released, stage
from tests.raw import Raw, as_bytes, as_int, as_list
from tests.runs import findings, migrate, verify
from tests.servers import Store

pytestmark = pytest.mark.dragonfly

KEYS = 900
JUDGED = {ASSESS_VARIABLE: "true", "GREENFLY_ASSESS__ONLY": "native"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters with data of every type."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        started.fill(KEYS)
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    """The same, with nothing counted so far."""
    for node in whole.masters():
        node("CONFIG", "RESETSTAT")
    return whole


@pytest.fixture(scope="module")
def emulating() -> Iterator[Store]:
    """A Dragonfly that serves every slot by itself."""
    program = find_dragonfly()
    if program is None:
        pytest.skip("no dragonfly on PATH")
    with (
        demo_servers.start_dragonfly(program, "--cluster_mode=emulated") as server,
        Store(server.url, server.engine, server.version, None, server) as store,
    ):
        yield store


@pytest.fixture
def green(emulating: Store) -> Iterator[Store]:
    """The same, empty."""
    released(emulating)
    emulating.client.flushall()
    yield emulating
    released(emulating)


@pytest.fixture
def once_online(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen once green has everything, before it is known to have caught up."""

    def arrange(act: Callable[[], object]) -> None:
        plant, acts = Sentinels.plant, [act]

        def first(self: Sentinels, databases: tuple[int, ...]) -> None:
            while acts:
                acts.pop()()
            plant(self, databases)

        monkeypatch.setattr(Sentinels, "plant", first)

    return arrange


def native(greenfly: Greenfly, cluster: RedisCluster, green: Store, *arguments: str) -> CompletedRun:
    return migrate(greenfly, cluster.url, green.url, "--strategy", "native", *arguments)


def tag(cluster: RedisCluster, number: int) -> str:
    """A hash tag of a slot of this master, in the middle of its slots."""
    node = cluster.masters()[number]
    return next(f"{{{n}}}" for n in range(10_000) if cluster.owner(key_slot(b"%d" % n)) is node)


def test_every_master_is_replicated_and_proven(
    greenfly: Greenfly, cluster: RedisCluster, green: Store
) -> None:
    run = native(greenfly, cluster, green)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert differences(cluster, green.url) == []
    told = detail(run, "replicate")
    assert (told["full_syncs"], told["only_offsets"], told["attached"]) == (3, "", False)
    shards = told["shards"]
    assert isinstance(shards, list)
    assert {shard["address"] for shard in shards} == {f"127.0.0.1:{node.port}" for node in cluster.masters()}
    assert sum(shard["keys"] for shard in shards) == KEYS
    assert [shard["sentinel"] for shard in shards] == [True] * 3
    assert stage(green.url) == "master"
    assert green.client.set("written", "again")
    assert sum(as_int(node("DBSIZE")) for node in cluster.masters()) == KEYS


def test_what_the_stream_of_a_master_dropped_is_repaired(
    greenfly: Greenfly,
    cluster: RedisCluster,
    green: Store,
    once_online: Callable[[Callable[[], object]], None],
) -> None:
    names = [f"{tag(cluster, number)}:empty" for number in range(3)]
    # Dragonfly takes no PFADD without elements.
    once_online(lambda: [node("PFADD", name) for node, name in zip(cluster.masters(), names, strict=True)])

    run = native(greenfly, cluster, green)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert [found[:2] for found in findings(run)] == [("missing", "repaired")] * 3
    assert differences(cluster, green.url) == []
    for node, name in zip(cluster.masters(), names, strict=True):
        node("DEL", name)


def test_a_link_that_drops_begins_anew_for_its_master_alone(
    greenfly: Greenfly,
    cluster: RedisCluster,
    green: Store,
    once_online: Callable[[Callable[[], object]], None],
) -> None:
    one, name = cluster.masters()[1], f"{tag(cluster, 1)}:gone"
    one("SET", name, "1")

    def drop() -> None:
        with Raw(one.url) as raw:
            raw("CLIENT", "KILL", "TYPE", "replica")
            raw("DEL", name)

    once_online(drop)

    run = native(greenfly, cluster, green)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "replicate")["full_syncs"] == 4
    assert findings(run) == []
    assert differences(cluster, green.url) == []


def test_slots_that_move_meanwhile_end_it(
    greenfly: Greenfly,
    cluster: RedisCluster,
    green: Store,
    once_online: Callable[[Callable[[], object]], None],
) -> None:
    slot = key_slot(tag(cluster, 0).strip("{}").encode())
    giver, taker = cluster.owner(slot), cluster.masters()[1]
    once_online(lambda: cluster.begin_to_move(slot, taker))

    run = native(greenfly, cluster, green)
    again = native(greenfly, cluster, green, "--conflict", "replace")
    for node in (taker, giver):
        node("CLUSTER", "SETSLOT", slot, "STABLE")

    assert (run.exit_code, again.exit_code) == (27, 4)  # begun and given up, then not begun
    assert all("on their way" in each.stderr for each in (run, again))
    assert "--strategy copy" in run.stderr
    assert stage(green.url) == "master"


def test_a_master_whose_slots_are_several_stretches_may_not_lose_its_link(
    greenfly: Greenfly,
    cluster: RedisCluster,
    green: Store,
    once_online: Callable[[Callable[[], object]], None],
) -> None:
    slot = key_slot(tag(cluster, 0).strip("{}").encode())
    giver, taker = cluster.owner(slot), cluster.masters()[2]
    cluster.move_slot(slot, taker)
    cluster.wait_until_whole()
    try:
        whole = native(greenfly, cluster, green)
        once_online(lambda: giver("CLIENT", "KILL", "TYPE", "replica"))
        dropped = native(greenfly, cluster, green, "--conflict", "replace")
    finally:
        cluster.move_slot(slot, giver)
        cluster.wait_until_whole()

    assert (whole.exit_code, whole.at("verdict")) == (0, "PASS"), whole.stderr
    assert dropped.exit_code != 0
    assert "several stretches" in dropped.stderr
    assert stage(green.url) == "master"


@pytest.mark.parametrize("links", [3, 1])
def test_a_green_that_was_left_attached_begins_from_nothing(
    greenfly: Greenfly, cluster: RedisCluster, green: Store, links: int
) -> None:
    with Raw(green.url) as raw:
        for number, node in enumerate(cluster.masters()[:links]):
            ends = (number * 16384 // 3, (number + 1) * 16384 // 3 - 1)
            raw("ADDREPLICAOF" if number else "REPLICAOF", "127.0.0.1", node.port, *ends)

    run = native(greenfly, cluster, green)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert stage(green.url) == "master"
    assert differences(cluster, green.url) == []


def test_a_green_that_replicates_one_master_only_is_refused(
    greenfly: Greenfly, cluster: RedisCluster, green_dragonfly: Store
) -> None:
    run = native(greenfly, cluster, green_dragonfly)

    assert run.exit_code == 4, run.stderr
    assert "--cluster_mode=emulated" in run.stderr
    assert green_dragonfly.client.dbsize() == 0


def test_auto_takes_the_road_that_the_servers_allow_and_says_why(
    greenfly: Greenfly, cluster: RedisCluster, green: Store, green_dragonfly: Store
) -> None:
    able, unable = (
        migrate(greenfly, cluster.url, target.url, "--strategy", "auto", env=JUDGED)
        for target in (green, green_dragonfly)
    )

    for run, road, why in ((able, "native", "its own replication"), (unable, "copy", "native.shards")):
        assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
        told = detail(run, "assess")
        assert told["strategy"] == road
        assert why in str(told["why"])


def test_a_sync_replicates_and_then_follows_by_tracking(
    greenfly: Greenfly,
    cluster: RedisCluster,
    green: Store,
    once_online: Callable[[Callable[[], object]], None],
) -> None:
    name = f"{tag(cluster, 2)}:dropped"
    once_online(lambda: cluster.masters()[2]("PFADD", name))

    run = run_here(
        greenfly,
        *("sync", *between(cluster.url, green.url), "--strategy", "native", "--until-equal"),
        *("--no-snapshot", "--json"),
    )

    assert run.exit_code == 0, run.stderr
    assert run.at("verdict") == "PASS"
    assert detail(run, "replicate")["full_syncs"] == 3
    assert differences(cluster, green.url) == []
    cluster.masters()[2]("DEL", name)


@deep
def test_a_master_that_fails_over_meanwhile_ends_it(
    greenfly: Greenfly,
    green: Store,
    once_online: Callable[[Callable[[], object]], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisCluster(tmp_path_factory.mktemp("failing"), replicas=True) as cluster:
        cluster.fill(KEYS)
        once_online(lambda: cluster.fail_over(cluster.masters()[1]))

        run = native(greenfly, cluster, green)
        copied = migrate(greenfly, cluster.url, green.url, "--strategy", "copy", "--conflict", "replace")

        assert run.exit_code != 0
        assert "serves other slots" in run.stderr
        assert (copied.exit_code, copied.at("verdict")) == (0, "PASS"), copied.stderr
        assert differences(cluster, green.url) == []


@deep
def test_a_user_with_exactly_the_line_moves_a_cluster_over_tls_by_either_road(
    greenfly: Greenfly,
    start_dragonfly: StartDragonfly,
    tls_pair: TlsPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ca = str(tls_pair.ca_file)
    own = (f"--tls_cert_file={tls_pair.cert_file}", f"--tls_key_file={tls_pair.key_file}")
    parts = (RunPart.ASSESS, RunPart.COPY, RunPart.SYNC, RunPart.NATIVE)
    with RedisCluster(tmp_path_factory.mktemp("tls"), tls=tls_pair) as cluster:
        cluster.fill(KEYS)
        for each in cluster.masters():
            known = {as_bytes(as_list(entry)[0]).decode() for entry in as_list(each("COMMAND"))}
            tried = [r.command for r in rights("source", parts, "redis", clustered=True)]
            there = [name for name in tried if name.partition("|")[0] in known]
            each(*shlex.split(least_privilege("source", parts, "redis", there, clustered=True)))
        url = cluster.url.replace("://", f"://{USER}:{PASSWORD}@")
        green = start_dragonfly(
            "--cluster_mode=emulated", "--tls_replication", f"--tls_ca_cert_file={ca}", *own
        )
        flags = ("--source-ca", ca)

        replicated = migrate(greenfly, url, green.url, "--strategy", "native", *flags)
        compared = verify(greenfly, url, green.url, *flags)
        copied = migrate(
            greenfly,
            url,
            green.url,
            "--strategy",
            "copy",
            "--conflict",
            "replace",
            *flags,
            env={ASSESS_VARIABLE: "true"},
        )
        followed = run_here(
            greenfly,
            "sync",
            *between(url, green.url),
            *flags,
            "--until-equal",
            "--conflict",
            "replace",
            "--no-snapshot",
            "--json",
        )
        refused = [entry for each in cluster.masters() for entry in as_list(each("ACL", "LOG"))]

        for run in (replicated, compared, copied, followed):
            assert run.exit_code == 0, run.stderr
            assert run.at("verdict") == "PASS"
        # What is tried in transactions that are never executed, and what Greenfly does without.
        outside = [facts for facts in map(as_list, refused) if facts[5] != b"multi"]
        assert {as_bytes(facts[7]) for facts in outside} <= {b"set", b"del", b"exec", b"watch"}
        assert differences(cluster, green.url) == []
