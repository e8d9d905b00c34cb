"""What applications use, told from a real source's counts and clients, and held against a real target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from greenfly.demo.process import free_port
from integrity.assess.command_table import CommandTable
from integrity.assess.model import Finding, Outcome, Severity
from integrity.assess.option_probes import PROBES, documented_options, offered_by, try_options
from integrity.assess.registry import find_check
from integrity.assess.subject import Subject
from integrity.endpoint import Endpoint
from integrity.strategy import Strategy
from tests.assessing import subject_of
from tests.conftest import StartDragonfly, StartServer
from tests.fencing import each_program, endpoint_of
from tests.matrix.servers import Program
from tests.raw import Raw
from tests.servers import Store

dragonfly = pytest.mark.dragonfly


@pytest.fixture
def fresh(blue: Store) -> Store:
    """The source, whose counts begin now."""
    blue.client.config_resetstat()
    return blue


def look(name: str, subject: Subject) -> Finding:
    finding = find_check(name).look(subject)
    json.dumps(dict(finding.evidence))
    return finding


def found(name: str, source: Store, target: Store, **overrides: object) -> Finding:
    return look(name, subject_of(source.url, target.url, **overrides))


def send(client: Redis, *command: str) -> object:
    """One command as it is written here."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


@contextmanager
def application(store: Store, *, database: int = 0, protocol: int = 2) -> Iterator[Redis]:
    """A client that stays connected."""
    client = Redis.from_url(
        store.url, db=database, protocol=protocol, client_name="shop", single_connection_client=True
    )
    try:
        client.ping()
        yield client
    finally:
        client.close()


# -- commands --------------------------------------------------------------------------------------------------------


@dragonfly
def test_a_command_that_dragonfly_does_not_know_blocks_with_its_share(
    fresh: Store, green_dragonfly: Store
) -> None:
    fresh.client.mset({"a": "ohmytext", "b": "mynewtext"})
    for _ in range(3):
        send(fresh.client, "LCS", "a", "b")
    finding = found("commands.unknown", fresh, green_dragonfly)
    assert (finding.outcome, finding.severity) == (Outcome.FOUND, Severity.BLOCKING)
    assert finding.items == ("lcs",)
    used = finding.evidence["commands"]
    assert isinstance(used, dict)
    assert used["lcs"]["calls"] == 3
    assert "failed" not in used["lcs"]
    assert 0 < used["lcs"]["share"] < 1


@dragonfly
def test_a_subcommand_is_told_from_its_container(fresh: Store, green_dragonfly: Store) -> None:
    send(fresh.client, "CLIENT", "REPLY", "ON")
    send(fresh.client, "CLIENT", "GETNAME")
    send(fresh.client, "XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    finding = found("commands.unknown", fresh, green_dragonfly)
    assert finding.items == ("client|reply",)


def test_the_same_server_knows_everything(fresh: Store, green_redis: Store) -> None:
    send(fresh.client, "CLIENT", "REPLY", "ON")
    send(fresh.client, "FUNCTION", "LIST")
    send(fresh.client, "OBJECT", "HELP")
    assert found("commands.unknown", fresh, green_redis).outcome is Outcome.PASSED
    assert found("commands.administration", fresh, green_redis).outcome is Outcome.PASSED


@dragonfly
def test_what_only_people_and_greenfly_itself_send_does_not_block(
    fresh: Store, green_dragonfly: Store
) -> None:
    with Raw(fresh.url) as tool:
        tool("SET", "k", "v")
        tool("OBJECT", "IDLETIME", "k")
        tool("OBJECT", "ENCODING", "k")
        tool("CLIENT", "NO-EVICT", "ON")
        tool("COMMAND", "LIST")
        tool("RPUSH", "list", "x")
        assert isinstance(tool.many([("LCS", "list", "list")])[0], ResponseError)
        tool("SWAPDB", "0", "1")
        tool("SWAPDB", "0", "1")
    told = found("commands.unknown", fresh, green_dragonfly)
    assert set(told.items) == {"object|idletime", "swapdb"}
    own = told.evidence["greenfly_sends_too"]
    assert isinstance(own, dict)
    assert "object|encoding" in own
    finding = found("commands.administration", fresh, green_dragonfly)
    assert finding.severity is Severity.WARNING
    assert set(finding.items) == {"client|no-evict", "command|list", "lcs"}


@dragonfly
def test_a_connected_application_that_sends_it_makes_it_an_applications_command(
    fresh: Store, green_dragonfly: Store
) -> None:
    fresh.client.set("k", "v")
    with application(fresh) as shop:
        send(shop, "OBJECT", "ENCODING", "k")
        assert found("commands.unknown", fresh, green_dragonfly).items == ("object|encoding",)
    assert found("commands.unknown", fresh, green_dragonfly).items == ()


@dragonfly
def test_assessing_is_not_taken_for_an_application(fresh: Store, green_dragonfly: Store) -> None:
    names = ("commands.subcommands", "commands.options", "functions.libraries", "modules.loaded", "users.acl")
    for name in names:
        found(name, fresh, green_dragonfly)
    assert found("commands.unknown", fresh, green_dragonfly).outcome is Outcome.PASSED


@dragonfly
def test_what_greenfly_asked_a_dragonfly_does_not_block_the_way_back(
    fresh: Store, start_dragonfly: StartDragonfly
) -> None:
    green = start_dragonfly()  # One whose counts no other test has made.
    send(fresh.client, "XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM")
    look("commands.unknown", subject_of(fresh.url, green.url))
    back = subject_of(green.url, fresh.url)
    assert {"cmdstat_hpexpiretime", "cmdstat__xgroup_help"} <= back.source_info.keys()
    assert look("commands.unknown", back).outcome is Outcome.PASSED
    assert look("functions.libraries", back).outcome is Outcome.NOT_APPLICABLE


@dragonfly
def test_options_that_dragonfly_refuses_are_named_only_of_commands_in_use(
    fresh: Store, green_dragonfly: Store, green_redis: Store
) -> None:
    assert found("commands.options", fresh, green_dragonfly).outcome is Outcome.PASSED
    fresh.client.set("k", "v")
    fresh.client.copy("k", "k2")
    fresh.client.pfadd("h", "x")
    send(fresh.client, "XADD", "s", "*", "f", "v")
    finding = found("commands.options", fresh, green_dragonfly)
    assert finding.severity is Severity.WARNING
    assert set(finding.items) >= {"COPY … DB", "PFADD with 1 arguments"}
    assert not any(item.startswith(("SET", "BITOP")) for item in finding.items)
    assert found("commands.options", fresh, green_redis).outcome is Outcome.PASSED


@dragonfly
def test_a_target_that_may_not_be_written_to_tells_nothing_about_options(
    fresh: Store, start_dragonfly: StartDragonfly
) -> None:
    green = start_dragonfly()
    with Raw(green.url) as raw:
        raw("ACL", "SETUSER", "reader", "on", ">x", "~*", "-@all", "+@read", "+@connection", "+info")
    fresh.client.copy("k", "k2")
    send(fresh.client, "XADD", "s", "NOMKSTREAM", "*", "f", "v")
    subject = subject_of(fresh.url, green.url.replace("://", "://reader:x@"))
    finding = look("commands.options", subject)
    assert finding.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("program", each_program())
def test_a_server_takes_every_option_that_it_documents_and_probes_change_nothing(program: Program) -> None:
    with program.start() as running, Raw(running.url) as raw:
        endpoint = endpoint_of(running.url)
        table = CommandTable.read(endpoint)
        with endpoint.connect("test") as connection:
            documented = documented_options(connection, {probe.name for probe in PROBES})
            probes = [p for p in PROBES if table.find(p.command)]
            taken = try_options(connection, probes)
        assert raw("DBSIZE") == 0
        assert None not in taken.values()
        if program.engine == "dragonfly":
            assert {"COPY … DB", "XADD … KEEPREF"} <= {p.title for p, yes in taken.items() if not yes}
            return
        version = ".".join(map(str, program.version))
        offered = {p.title for p in probes if offered_by(p, documented, version)}
        if program.engine == "redis" or documented is not None:
            assert offered <= {p.title for p, yes in taken.items() if yes}
        assert len(offered) > 30


def test_a_subscriber_survives_the_probes(green_redis: Store) -> None:
    listener = green_redis.client.pubsub()  # type: ignore[no-untyped-call]
    listener.subscribe("news")
    assert listener.get_message(timeout=5.0) is not None
    with endpoint_of(green_redis.url).connect("test") as connection:
        try_options(connection, PROBES)
    green_redis.client.publish("news", "still there")
    message = listener.get_message(timeout=5.0)
    assert message is not None
    assert message["data"] == b"still there"
    listener.close()


@dragonfly
def test_a_write_that_replication_drops_blocks_only_where_green_stays_attached(
    fresh: Store, green_dragonfly: Store
) -> None:
    with Raw(fresh.url) as raw:
        raw("SWAPDB", "0", "1")
        raw("SWAPDB", "0", "1")
    name = "native.dropped-commands"
    assert Strategy.COPY not in find_check(name).strategies
    kept = found(name, fresh, green_dragonfly, native={"follow": "replication"})
    assert (kept.severity, kept.items) == (Severity.BLOCKING, ("swapdb",))
    detached = found(name, fresh, green_dragonfly)
    assert (detached.severity, detached.items) == (Severity.WARNING, ("swapdb",))
    fresh.client.config_resetstat()
    fresh.client.set("k", "v")
    assert found(name, fresh, green_dragonfly).outcome is Outcome.PASSED
    fresh.client.copy("k", "k2")
    perhaps = found(name, fresh, green_dragonfly, native={"follow": "replication"})
    assert (perhaps.severity, perhaps.items) == (Severity.WARNING, ("COPY … DB",))


@dragonfly
@pytest.mark.parametrize("program", each_program())
def test_field_expiries_are_dropped_in_the_form_in_which_they_are_replicated(
    program: Program, green_dragonfly: Store
) -> None:
    if program.engine != "redis" or program.version < (7, 4):
        pytest.skip("this server has no field expiries")
    with program.start() as running, Raw(running.url) as raw:
        raw("HSET", "h", "f", "v")
        raw("HEXPIRE", "h", "100", "FIELDS", "1", "f")
        subject = subject_of(running.url, green_dragonfly.url)
        assert look("commands.unknown", subject).outcome is Outcome.PASSED  # Dragonfly does know HEXPIRE.
        assert look("native.dropped-commands", subject).items == ("hexpire",)


@dragonfly
@pytest.mark.parametrize("program", each_program())
def test_a_source_that_counts_no_subcommands_says_which_ones_cannot_be_told(
    program: Program, green_dragonfly: Store
) -> None:
    if program.engine != "redis" or program.version >= (7,):
        pytest.skip("this server counts subcommands")
    with program.start() as running, Raw(running.url) as raw:
        raw("CLIENT", "ID")
        finding = look("commands.subcommands", subject_of(running.url, green_dragonfly.url))
        assert finding.outcome is Outcome.FOUND
        containers = finding.evidence["containers"]
        assert isinstance(containers, dict)
        assert {"reply", "unblock"} <= set(containers["client"]["not_known"])
        assert "setname" not in containers["client"]["not_known"]


def test_errors_are_a_baseline(fresh: Store, green_redis: Store) -> None:
    fresh.client.set("k", "v")
    with pytest.raises(ResponseError):
        send(fresh.client, "INCR", "k")
    finding = found("commands.errors", fresh, green_redis)
    assert finding.severity is Severity.INFO
    failing = finding.evidence["failed_calls"]
    assert isinstance(failing, dict)
    assert failing["incr"] == 1


@dragonfly
def test_far_expiries_matter_only_on_dragonfly(
    fresh: Store, green_dragonfly: Store, green_redis: Store
) -> None:
    fresh.client.set("k", "v")
    fresh.client.expireat("k", 4_000_000_000)
    assert found("commands.expiry-range", fresh, green_dragonfly).items == ("expireat",)
    assert found("commands.expiry-range", fresh, green_redis).outcome is Outcome.NOT_APPLICABLE


@dragonfly
def test_a_command_that_ends_a_dragonfly_is_told(
    fresh: Store, start_dragonfly: StartDragonfly, green_redis: Store
) -> None:
    green = start_dragonfly()
    assert found("commands.fatal", fresh, green).outcome is Outcome.PASSED
    fresh.client.xgroup_create("stream", "group", mkstream=True)
    assert set(found("commands.fatal", fresh, green).items) <= {"xgroup", "xgroup|create"}
    assert found("commands.fatal", fresh, green).severity is Severity.WARNING
    assert found("commands.fatal", fresh, green_redis).outcome is Outcome.NOT_APPLICABLE

    green.client.set("text", "v")
    with pytest.raises(RedisConnectionError):
        green.client.xgroup_create("text", "group", mkstream=True)


# -- clients ---------------------------------------------------------------------------------------------------------


@dragonfly
def test_listening_to_changes_of_keys_blocks_where_the_target_stays_silent(
    start_redis: StartServer, green_dragonfly: Store, green_redis: Store
) -> None:
    source = start_redis("--notify-keyspace-events", "KEA")
    name = "clients.notifications"
    nobody = found(name, source, green_dragonfly)
    assert (nobody.outcome, nobody.severity) == (Outcome.FOUND, Severity.WARNING)
    listener = source.client.pubsub()  # type: ignore[no-untyped-call]
    listener.subscribe("__keyspace@0__:orders")
    assert listener.get_message(timeout=5.0) is not None
    heard = found(name, source, green_dragonfly)
    assert (heard.severity, heard.items) == (Severity.BLOCKING, ("__keyspace@0__:orders",))
    green_redis.client.config_set("notify-keyspace-events", "KEA")
    try:
        assert found(name, source, green_redis).outcome is Outcome.PASSED
    finally:
        green_redis.client.config_set("notify-keyspace-events", "")
    listener.close()


@dragonfly
def test_expired_keys_are_all_that_dragonfly_announces(
    start_redis: StartServer, start_dragonfly: StartDragonfly
) -> None:
    source = start_redis("--notify-keyspace-events", "KEA")
    listener = source.client.pubsub()  # type: ignore[no-untyped-call]
    listener.subscribe("__keyevent@0__:expired")
    assert listener.get_message(timeout=5.0) is not None
    target = start_dragonfly("--notify_keyspace_events=Ex")
    assert found("clients.notifications", source, target).outcome is Outcome.PASSED
    listener.close()


@dragonfly
def test_caches_that_follow_by_broadcast_block(
    fresh: Store, green_dragonfly: Store, green_redis: Store
) -> None:
    assert found("clients.tracking", fresh, green_dragonfly).outcome is Outcome.PASSED
    with application(fresh, protocol=3) as shop:
        send(shop, "CLIENT", "TRACKING", "ON")
        plain = found("clients.tracking", fresh, green_dragonfly)
        assert (plain.outcome, plain.severity) == (Outcome.FOUND, Severity.INFO)
        send(shop, "CLIENT", "TRACKING", "OFF")
        send(shop, "CLIENT", "TRACKING", "ON", "BCAST")
        broadcast = found("clients.tracking", fresh, green_dragonfly)
        assert (broadcast.severity, broadcast.items) == (Severity.BLOCKING, ("shop",))
        assert found("clients.tracking", fresh, green_redis).severity is Severity.INFO


@dragonfly
def test_greenflys_own_feed_is_no_cache(fresh: Store, green_dragonfly: Store) -> None:
    with Endpoint.connect(endpoint_of(fresh.url), "tracking") as own:
        own.command(b"HELLO", b"3")
        own.command(b"CLIENT", b"TRACKING", b"ON", b"BCAST")
        assert found("clients.tracking", fresh, green_dragonfly).outcome is Outcome.PASSED


@dragonfly
def test_a_database_that_the_target_lacks_blocks(
    start_redis: StartServer, start_dragonfly: StartDragonfly
) -> None:
    source, target = start_redis(), start_dragonfly("--dbnum=4")
    with application(source, database=3):
        assert found("clients.select", source, target).outcome is Outcome.PASSED
    with application(source, database=9):
        missing = found("clients.select", source, target)
        assert (missing.severity, missing.items) == (Severity.BLOCKING, ("9",))
        mapped = found("clients.select", source, target, rules={"databases": {"9": "2"}})
        assert mapped.outcome is Outcome.PASSED


@dragonfly
def test_channels_waiting_transactions_and_watchers_are_told(fresh: Store, green_dragonfly: Store) -> None:
    for name in ("clients.pubsub", "clients.blocking", "clients.transactions", "clients.monitor"):
        assert found(name, fresh, green_dragonfly).outcome is Outcome.PASSED, name
    with ExitStack() as stack:
        listener = stack.enter_context(fresh.client.pubsub())  # type: ignore[no-untyped-call]
        listener.subscribe("news")
        assert listener.get_message(timeout=5.0) is not None
        shop = stack.enter_context(application(fresh))
        waiter = Thread(target=lambda: shop.blpop(["queue"], timeout=30))
        waiter.start()
        stack.callback(waiter.join)
        stack.callback(fresh.client.rpush, "queue", "x")
        reader = stack.enter_context(application(fresh))
        stack.enter_context(reader.monitor())  # type: ignore[no-untyped-call]
        with Raw(fresh.url) as raw:
            raw.many([("MULTI",), ("SET", "k", "v"), ("EXEC",)])
        deadline = monotonic() + 5
        while not fresh.client.info("clients")["blocked_clients"] and monotonic() < deadline:
            sleep(0.02)
        assert found("clients.pubsub", fresh, green_dragonfly).evidence["channels"] == 1
        waiting = found("clients.blocking", fresh, green_dragonfly)
        assert (waiting.severity, waiting.evidence["blocked_now"]) == (Severity.INFO, 1)
        assert found("clients.transactions", fresh, green_dragonfly).outcome is Outcome.FOUND
        assert found("clients.monitor", fresh, green_dragonfly).severity is Severity.WARNING


def test_replicas_of_the_source_are_told(start_redis: StartServer, green_redis: Store) -> None:
    source = start_redis("--repl-diskless-sync-delay", "0")
    assert found("replicas.attached", source, green_redis).outcome is Outcome.PASSED
    port = source.url.rpartition(":")[2].partition("/")[0]
    replica = start_redis("--replicaof", "127.0.0.1", port)
    deadline = monotonic() + 10
    while not source.client.info("replication")["connected_slaves"] and monotonic() < deadline:
        sleep(0.05)
    attached = found("replicas.attached", source, green_redis)
    assert (attached.severity, attached.evidence["replicas"]) == (Severity.WARNING, 1)
    assert found("clients.counted-here", replica, green_redis).severity is Severity.WARNING


@dragonfly
def test_cluster_commands_matter_only_where_they_succeed(
    fresh: Store,
    green_dragonfly: Store,
    start_dragonfly: StartDragonfly,
    start_redis: StartServer,
    tmp_path: Path,
) -> None:
    with pytest.raises(ResponseError):
        send(fresh.client, "CLUSTER", "INFO")
    subject = subject_of(fresh.url, green_dragonfly.url)
    assert look("clients.cluster", subject).outcome is Outcome.PASSED
    # The bus would take the port 10,000 above, which there may be none of.
    bus = str(free_port())
    node = start_redis("--cluster-enabled", "yes", "--cluster-port", bus, "--dir", str(tmp_path))
    send(node.client, "CLUSTER", "INFO")
    clustered = subject_of(fresh.url, green_dragonfly.url)
    clustered.source = endpoint_of(node.url)
    refused = look("clients.cluster", clustered)
    assert (refused.severity, refused.items) == (Severity.BLOCKING, ())
    clustered.target = endpoint_of(start_dragonfly("--cluster_mode=emulated").url)
    assert look("clients.cluster", clustered).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("clients.tracking", "client|list"),
        ("clients.monitor", "client|list"),
        ("clients.notifications", "config|get"),
        ("users.acl", "acl|getuser"),
        ("modules.loaded", "module|list"),
    ],
)
def test_what_a_managed_service_refuses_to_tell_does_not_block(
    start_redis: StartServer, green_redis: Store, name: str, refused: str
) -> None:
    source = start_redis()
    with Raw(source.url) as raw:
        raw("ACL", "SETUSER", "managed", "on", ">x", "~*", "&*", "+@all", f"-{refused}")
    subject = subject_of(source.url.replace("://", "://managed:x@"), green_redis.url)
    finding = look(name, subject)
    assert finding.severity is not Severity.BLOCKING
    assert finding.outcome in {Outcome.UNKNOWN, Outcome.PASSED}
    if name != "clients.tracking":
        assert finding.outcome is Outcome.UNKNOWN
