"""Servers and settings that cannot be used: each is told by name, with what to do, and nothing is left half done."""

from __future__ import annotations

import random
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep

import pytest
from redis import Redis

from greenfly.demo.process import TlsPair, free_port
from integrity.transfer.temporary import PREFIX as TEMPORARY_PREFIX
from tests.cli import CompletedRun, Greenfly, dig
from tests.conftest import StartDragonfly, StartServer
from tests.faults.aftermath import (
    SECRET,
    assert_closed,
    assert_failed,
    assert_no_secret,
    assert_same,
    assert_works_now,
)
from tests.inprocess import between, run_here
from tests.servers import Store
from tests.tls import make_tls_pair

ROLES = ("source", "target")
CODES = {"source": 10, "target": 20}


@pytest.fixture
def data(blue: Store) -> Store:
    """The source with a few keys."""
    pipeline = blue.client.pipeline(transaction=False)
    for number in range(20):
        pipeline.set(f"k:{number}", f"v{number}")
    pipeline.execute()
    return blue


def migrate(
    greenfly: Greenfly,
    servers: tuple[str, ...],
    *arguments: str,
    env: Mapping[str, str] | None = None,
) -> CompletedRun:
    return run_here(greenfly, "migrate", *servers, "--json", *arguments, env=env)


def facing(role: str, url: str, other: Store) -> tuple[str, ...]:
    """The flags with *url* in *role*, and the other server where it is not."""
    return between(url, other.url) if role == "source" else between(other.url, url)


def with_credentials(url: str, credentials: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{credentials}@{rest.rpartition('@')[2]}"


def masked(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def where(url: str) -> str:
    """Host and port."""
    return url.rpartition("@")[2].rpartition("//")[2]


# -- reaching a server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_server_that_does_not_run(data: Store, green_redis: Store, greenfly: Greenfly, role: str) -> None:
    url = f"redis://app:{SECRET}@127.0.0.1:{free_port()}"
    other = green_redis if role == "source" else data

    run = migrate(greenfly, facing(role, url, other))

    assert_failed(greenfly, run, CODES[role], address=where(url), role=role)
    assert green_redis.client.dbsize() == 0
    assert_works_now(greenfly, data.url, green_redis.url)


def test_a_server_that_does_not_run_from_a_real_terminal(green_redis: Store, greenfly: Greenfly) -> None:
    url = f"redis://app:{SECRET}@127.0.0.1:{free_port()}"

    run = greenfly("verify", *between(url, green_redis.url), "--json")

    assert_failed(greenfly, run, 10, address=where(url), role="source")


@pytest.mark.parametrize(
    ("role", "host"),
    [
        ("source", "no-such-host.invalid"),
        ("target", "no-such-host.invalid"),
        ("source", "two..dots"),
        ("target", "x" * 64 + ".example"),
        ("source", "exa mple"),
    ],
)
def test_a_host_name_that_means_nothing(
    data: Store, green_redis: Store, greenfly: Greenfly, role: str, host: str
) -> None:
    other = green_redis if role == "source" else data

    run = migrate(greenfly, facing(role, f"redis://app:{SECRET}@{host}:6379", other))

    assert_failed(greenfly, run, CODES[role], address=host, role=role)


def test_a_socket_that_is_not_there(green_redis: Store, greenfly: Greenfly, tmp_path: Path) -> None:
    run = migrate(greenfly, between(f"unix://:{SECRET}@{tmp_path}/none.sock", green_redis.url))

    assert_failed(greenfly, run, 10, address="none.sock", role="source")


@pytest.mark.parametrize("role", ROLES)
def test_a_port_where_nobody_answers(data: Store, green_redis: Store, greenfly: Greenfly, role: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://app:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
        other = green_redis if role == "source" else data
        run = migrate(
            greenfly,
            facing(role, url, other),
            env={f"GREENFLY_{role.upper()}__IO_TIMEOUT": "0.3"},
        )

    assert_failed(greenfly, run, CODES[role], address=where(url), role=role)


# -- credentials -------------------------------------------------------------------------------------------------------

CREDENTIALS: dict[str, Callable[[str], str]] = {
    "wrong password": lambda url: with_credentials(url, f":{SECRET}"),
    "unknown user": lambda url: with_credentials(url, f"nobody:{SECRET}"),
    "no password": masked,
}


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("role", ROLES)
def test_credentials_that_redis_refuses(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, role: str, name: str
) -> None:
    guarded = start_redis(password=f"right {SECRET}".replace(" ", "-"))
    refused_url = CREDENTIALS[name](guarded.url)

    run = migrate(greenfly, facing(role, refused_url, blue))

    assert_failed(greenfly, run, CODES[role] + 1, address=where(guarded.url), role=role)
    blue.client.set("k", "v")
    if role == "target":
        assert_works_now(greenfly, blue.url, guarded.url)
    else:
        guarded.client.set("k", "v")
        blue.client.flushall()
        assert_works_now(greenfly, guarded.url, blue.url)
    assert_no_secret(greenfly)


@pytest.mark.dragonfly
@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_that_dragonfly_refuses(
    data: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly, name: str
) -> None:
    guarded = start_dragonfly(password=f"right-{SECRET}")

    run = migrate(greenfly, between(data.url, CREDENTIALS[name](guarded.url)))

    assert_failed(greenfly, run, 21, address=where(guarded.url), role="target")
    assert_works_now(greenfly, data.url, guarded.url)


def test_a_password_for_a_redis_that_has_none(data: Store, green_redis: Store, greenfly: Greenfly) -> None:
    run = migrate(greenfly, between(data.url, with_credentials(green_redis.url, f":{SECRET}")))

    assert_failed(greenfly, run, 21, address=where(green_redis.url), role="target")
    assert_works_now(greenfly, data.url, green_redis.url)


def test_the_password_comes_from_a_file_or_the_environment(
    data: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    guarded = start_redis(password=SECRET)
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    servers = between(data.url, masked(guarded.url))

    by_file = migrate(greenfly, servers, "--target-password-file", str(file))
    by_variable = run_here(greenfly, "verify", *servers, "--json", env={"GREENFLY_TARGET__PASSWORD": SECRET})

    assert (by_file.exit_code, by_variable.exit_code) == (0, 0)
    assert_no_secret(greenfly, by_file, by_variable)


# -- rights ------------------------------------------------------------------------------------------------------------


def user_without(store: Store, *commands: str) -> str:
    """A URL of a user who may do anything but *commands*."""
    rules = [f"-{command}" for command in commands]
    store.client.execute_command(  # type: ignore[no-untyped-call]
        "ACL",
        "SETUSER",
        "limited",
        "ON",
        f">{SECRET}",
        "~*",
        "+@all" if store.engine == "redis" else "+@ALL",
        *rules,
    )
    return with_credentials(store.url, f"limited:{SECRET}")


@pytest.mark.parametrize(
    ("command", "snapshot"),
    [
        *(("dump", "--snapshot"), ("scan", "--snapshot"), ("exec", "--snapshot"), ("info", "--snapshot")),
        *(("dump", "--no-snapshot"), ("scan", "--no-snapshot"), ("pexpiretime", "--no-snapshot")),
        ("mget", "--no-snapshot"),
    ],
)
def test_a_source_user_who_lacks_a_right(
    start_redis: StartServer, green_redis: Store, greenfly: Greenfly, command: str, snapshot: str
) -> None:
    source = start_redis()
    source.client.set("k", "v")
    source.client.rpush("l", "v")

    run = migrate(greenfly, between(user_without(source, command), green_redis.url), snapshot)

    assert_failed(greenfly, run, 14, address=where(source.url), role="source")
    assert command in str(run.at("error", "problem")).lower()
    assert green_redis.client.dbsize() == 0
    assert_works_now(greenfly, source.url, green_redis.url)


@pytest.mark.parametrize("command", ["restore", "mset", "pexpireat", "del", "info"])
def test_a_redis_target_user_who_lacks_a_right(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, command: str
) -> None:
    target = start_redis()
    _one_key_for(command, blue)

    run = migrate(greenfly, between(blue.url, user_without(target, command)))

    assert_failed(greenfly, run, 24, address=where(target.url), role="target")
    assert command in str(run.at("error", "problem")).lower()
    if command != "pexpireat":
        assert target.client.dbsize() == 0
    assert_works_now(greenfly, blue.url, target.url, "--conflict", "replace")


def _one_key_for(command: str, store: Store) -> None:
    """A key that needs *command* at the target."""
    if command.lower() == "restore":
        store.client.rpush("k", "v")
    else:
        store.client.set("k", "v", ex=1000)


@pytest.mark.dragonfly
@pytest.mark.parametrize("command", ["RESTORE", "MSET", "PEXPIREAT", "DEL"])
def test_a_dragonfly_target_user_who_lacks_a_right(
    blue: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly, command: str
) -> None:
    target = start_dragonfly()
    _one_key_for(command, blue)

    run = migrate(greenfly, between(blue.url, user_without(target, command)))

    assert_failed(greenfly, run, 24, address=where(target.url), role="target")
    if command != "PEXPIREAT":
        assert target.client.dbsize() == 0
    assert_works_now(greenfly, blue.url, target.url, "--conflict", "replace")


@pytest.mark.parametrize("command", ["get", "pexpiretime", "exists", "type"])
def test_a_right_that_only_verify_needs_is_never_a_pass(
    data: Store, start_redis: StartServer, greenfly: Greenfly, command: str
) -> None:
    target = start_redis()
    assert_works_now(greenfly, data.url, target.url)

    run = run_here(greenfly, "verify", *between(user_without(data, command), target.url), "--json")
    data.client.acl_deluser("limited")

    assert run.exit_code in (3, 14), run.stderr
    assert_no_secret(greenfly, run)


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_tls_to_a_port_that_speaks_plain_text(
    data: Store, green_redis: Store, greenfly: Greenfly, role: str
) -> None:
    plain, other = (data, green_redis) if role == "source" else (green_redis, data)
    url = with_credentials(plain.url.replace("redis://", "rediss://"), f"app:{SECRET}")

    run = migrate(
        greenfly, facing(role, url, other), env={f"GREENFLY_{role.upper()}__CONNECT_TIMEOUT": "0.5"}
    )

    assert_failed(greenfly, run, CODES[role] + 2, address=where(plain.url), role=role)
    assert "redis://" in str(run.at("error", "remedy"))
    assert_works_now(greenfly, data.url, green_redis.url)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("credentials", ["", f"app:{SECRET}@"], ids=["no password", "password"])
def test_plain_text_to_a_port_that_speaks_tls(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, tls_pair: TlsPair, role: str, credentials: str
) -> None:
    store = start_redis(tls=tls_pair)

    run = migrate(greenfly, facing(role, f"redis://{credentials}{where(store.url)}", blue))

    assert_failed(greenfly, run, CODES[role] + 2, address=where(store.url), role=role)
    assert "rediss://" in str(run.at("error", "remedy"))


@pytest.mark.dragonfly
def test_plain_text_to_a_dragonfly_that_speaks_tls(
    data: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly, tls_pair: TlsPair
) -> None:
    files = (f"--tls_cert_file={tls_pair.cert_file}", f"--tls_key_file={tls_pair.key_file}")
    store = start_dragonfly("--tls", *files, password=SECRET)

    run = migrate(greenfly, between(data.url, store.url))

    assert_failed(greenfly, run, 22, address=where(store.url), role="target")
    assert "rediss://" in str(run.at("error", "remedy"))
    trusted = migrate(
        *(greenfly, between(data.url, store.url.replace("redis://", "rediss://"))),
        *("--target-ca", str(tls_pair.ca_file)),
    )
    assert (trusted.exit_code, trusted.at("verdict")) == (0, "PASS"), trusted.stderr


@pytest.fixture
def tls_source(start_redis: StartServer, tls_pair: TlsPair) -> Store:
    store = start_redis(tls=tls_pair)
    store.client.set("k", "v")
    return store


def test_a_trusted_certificate_is_accepted(
    tls_source: Store, green: Store, greenfly: Greenfly, tls_pair: TlsPair
) -> None:
    run = migrate(greenfly, between(tls_source.url, green.url), "--source-ca", str(tls_pair.ca_file))

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert green.client.get("k") == b"v"


def test_a_certificate_that_nobody_vouches_for(
    tls_source: Store, green_redis: Store, greenfly: Greenfly, tls_pair: TlsPair, tmp_path: Path
) -> None:
    servers = between(with_credentials(tls_source.url, f"app:{SECRET}"), green_redis.url)
    stranger = make_tls_pair(tmp_path)

    by_system = migrate(greenfly, servers)
    assert_failed(greenfly, by_system, 12, address=where(tls_source.url), role="source")
    by_stranger = migrate(greenfly, servers, "--source-ca", str(stranger.ca_file))
    assert_failed(greenfly, by_stranger, 12, address=where(tls_source.url), role="source")

    unverified = migrate(
        greenfly, between(tls_source.url, green_redis.url), env={"GREENFLY_SOURCE__TLS_VERIFY": "false"}
    )
    assert unverified.exit_code == 0, unverified.stderr


def test_a_certificate_for_another_host(
    tls_source: Store, green_redis: Store, greenfly: Greenfly, tls_pair: TlsPair
) -> None:
    url = with_credentials(tls_source.url.replace("127.0.0.1", "localhost"), f"app:{SECRET}")

    run = migrate(greenfly, between(url, green_redis.url), "--source-ca", str(tls_pair.ca_file))

    assert_failed(greenfly, run, 12, address=where(url), role="source")
    assert "host" in str(run.at("error", "remedy")).lower()


@pytest.mark.parametrize("password", ["", f"app:{SECRET}@"], ids=["no password", "password"])
def test_a_client_certificate_that_is_asked_for(
    tls_source: Store, green_redis: Store, greenfly: Greenfly, tls_pair: TlsPair, password: str
) -> None:
    tls_source.client.config_set("tls-auth-clients", "yes")
    url = f"rediss://{password}{where(tls_source.url)}"
    trust = ("--source-ca", str(tls_pair.ca_file))

    without = migrate(greenfly, between(url, green_redis.url), *trust)
    assert_failed(greenfly, without, 12, address=where(tls_source.url), role="source")
    assert "tls_cert_file" in str(without.at("error", "remedy"))

    shown = ("--source-cert", str(tls_pair.cert_file), "--source-key", str(tls_pair.key_file))
    presented = migrate(greenfly, between(tls_source.url, green_redis.url), *trust, *shown)
    assert (presented.exit_code, presented.at("verdict")) == (0, "PASS"), presented.stderr


@pytest.mark.parametrize("flag", ["--source-ca", "--source-cert"])
@pytest.mark.parametrize("content", [None, "this is no certificate"], ids=["missing", "no PEM"])
def test_tls_files_that_cannot_be_used(
    tls_source: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path, flag: str, content: str | None
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)

    run = migrate(greenfly, between(tls_source.url, green_redis.url), flag, str(file))

    assert run.exit_code in (2, 12)
    assert run.at("error", "remedy")
    assert "Traceback" not in run.stderr


# -- state of a server -------------------------------------------------------------------------------------------------


def noise(client: Redis, count: int, size: int) -> None:
    """Values that do not compress."""
    rng = random.Random(7)
    pipeline = client.pipeline(transaction=False)
    for number in range(count):
        pipeline.set(f"noise:{number}", rng.randbytes(size))
    pipeline.execute()


def temporary_keys(store: Store) -> list[object]:
    return [key for key in store.client.scan_iter(count=1000) if key.startswith(TEMPORARY_PREFIX)]


@pytest.mark.parametrize("policy", ["fail", "replace"])
def test_a_redis_target_that_is_full(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, policy: str
) -> None:
    noise(blue.client, 300, 20_000)
    target = start_redis("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")

    run = migrate(greenfly, between(blue.url, target.url), "--no-snapshot", "--conflict", policy)

    assert_failed(greenfly, run, 25, address=where(target.url), role="target")
    target.client.config_set("maxmemory", "100mb")
    assert_works_now(greenfly, blue.url, target.url, "--conflict", "replace")
    assert_same(blue.url, target.url)


@pytest.mark.parametrize("policy", ["fail", "replace"])
def test_a_full_target_can_be_resumed(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, policy: str
) -> None:
    noise(blue.client, 300, 20_000)
    target = start_redis("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    run = migrate(greenfly, between(blue.url, target.url), "--no-snapshot", "--conflict", policy)
    assert run.exit_code == 25

    target.client.config_set("maxmemory", "100mb")

    assert_works_now(greenfly, blue.url, target.url, "--resume")
    assert_same(blue.url, target.url)


@pytest.mark.dragonfly
@pytest.mark.parametrize("policy", ["fail", "replace"])
def test_a_dragonfly_target_that_is_full(
    blue: Store, start_dragonfly: StartDragonfly, greenfly: Greenfly, policy: str
) -> None:
    noise(blue.client, 400, 100_000)
    target = start_dragonfly("--maxmemory=512mb")
    target.client.config_set("maxmemory", "25mb")

    run = migrate(greenfly, between(blue.url, target.url), "--no-snapshot", "--conflict", policy)

    assert_failed(greenfly, run, 25, address=where(target.url), role="target")
    target.client.config_set("maxmemory", "512mb")
    assert_works_now(greenfly, blue.url, target.url, "--conflict", "replace")
    assert_same(blue.url, target.url)
    assert temporary_keys(target) == []


def test_a_target_that_is_a_read_only_replica(
    data: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    master = start_redis()
    host, port = where(master.url).split(":")
    replica = start_redis("--replicaof", host, port)

    run = migrate(greenfly, between(data.url, replica.url))

    assert_failed(greenfly, run, 26, address=where(replica.url), role="target")
    replica.client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
    assert_works_now(greenfly, data.url, replica.url)


@pytest.mark.dragonfly
def test_a_target_that_is_a_dragonfly_replica(
    data: Store, start_redis: StartServer, start_dragonfly: StartDragonfly, greenfly: Greenfly
) -> None:
    master, replica = start_redis("--repl-diskless-sync-delay", "0"), start_dragonfly()
    host, port = where(master.url).split(":")
    replica.client.execute_command("REPLICAOF", host, port)  # type: ignore[no-untyped-call]

    run = migrate(greenfly, between(data.url, replica.url))

    assert_failed(greenfly, run, 26, address=where(replica.url), role="target")
    replica.client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
    assert_works_now(greenfly, data.url, replica.url)


@pytest.fixture
def loading(blue: Store, greenfly: Greenfly, start_redis: StartServer, tmp_path: Path) -> Store:
    """A Redis that loads a snapshot slowly."""
    noise(blue.client, 3_000, 10)
    taken = run_here(greenfly, "snapshot", "take", "--source", blue.url, "--json")
    shutil.copy(Path(str(taken.at("snapshot"))) / "dump.rdb", tmp_path / "dump.rdb")
    store = start_redis(
        *("--dir", str(tmp_path), "--dbfilename", "dump.rdb"),
        *("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"),
    )
    assert dig(store.client.info("persistence"), "loading") == 1
    return store


@pytest.mark.parametrize("role", ROLES)
def test_a_server_that_is_still_loading(
    loading: Store, blue: Store, green_redis: Store, greenfly: Greenfly, role: str
) -> None:
    other = green_redis if role == "source" else blue

    run = migrate(greenfly, facing(role, loading.url, other))

    assert_failed(greenfly, run, CODES[role] + 3, address=where(loading.url), role=role)
    loading.client.config_set("key-load-delay", "0")
    deadline = monotonic() + 20
    while dig(loading.client.info("persistence"), "loading"):
        assert monotonic() < deadline
        sleep(0.02)
    if role == "source":
        assert_works_now(greenfly, loading.url, green_redis.url)
    else:
        assert_works_now(greenfly, blue.url, loading.url, "--conflict", "replace")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_source_and_target_that_are_the_same_server(data: Store, greenfly: Greenfly, host: str) -> None:
    before = dict(enumerate(sorted(data.client.scan_iter())))

    for arguments in ((), ("--conflict", "replace")):
        run = migrate(greenfly, between(data.url, data.url.replace("127.0.0.1", host)), *arguments)
        assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
        assert_closed(greenfly)
    assert dict(enumerate(sorted(data.client.scan_iter()))) == before


@pytest.mark.dragonfly
def test_source_and_target_that_are_the_same_dragonfly(green_dragonfly: Store, greenfly: Greenfly) -> None:
    green_dragonfly.client.set("k", "v")
    other_name = green_dragonfly.url.replace("127.0.0.1", "localhost")

    run = migrate(greenfly, between(green_dragonfly.url, other_name), "--conflict", "replace")

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert green_dragonfly.client.get("k") == b"v"


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("scheme", ["http", "valkey", "redis-sentinel", ""])
def test_a_url_of_another_scheme(data: Store, greenfly: Greenfly, role: str, scheme: str) -> None:
    url = f"{scheme}://app:{SECRET}@127.0.0.1:6379" if scheme else f"app:{SECRET}@127.0.0.1:6379"

    run = migrate(greenfly, facing(role, url, data))

    assert run.exit_code == 2
    assert role in str(run.at("error", "problem"))
    assert "rediss://" in str(run.at("error", "remedy"))
    assert_closed(greenfly)
    assert_no_secret(greenfly, run)


@pytest.mark.parametrize("separator", ["@", "/", "#", "?", " "])
def test_a_password_in_a_url_that_is_not_percent_encoded(
    data: Store, greenfly: Greenfly, separator: str
) -> None:
    url = f"redis://app:48151{separator}{SECRET}@127.0.0.1:{free_port()}"

    run = migrate(greenfly, between(url, data.url), env={"GREENFLY_SOURCE__CONNECT_TIMEOUT": "1"})

    assert run.exit_code in (2, 10)
    assert_closed(greenfly)
    assert_no_secret(greenfly, run)


@pytest.mark.parametrize("below", ["", "below", "below/that"])
def test_a_state_folder_that_cannot_be_written(
    data: Store, green_redis: Store, greenfly: Greenfly, below: str
) -> None:
    file = greenfly.folder / "file"
    file.write_text("not a folder")
    servers = between(data.url, green_redis.url)

    run = migrate(greenfly, servers, "--state-dir", str(file / below))

    assert (run.exit_code, run.at("error", "kind")) == (5, "LedgerError")
    assert str(file) in str(run.at("error", "problem"))
    assert "--state-dir" in str(run.at("error", "remedy"))
    assert green_redis.client.dbsize() == 0
    assert_works_now(greenfly, data.url, green_redis.url)


def test_a_ledger_that_is_damaged(data: Store, green_redis: Store, greenfly: Greenfly) -> None:
    greenfly.state_dir.mkdir()
    (greenfly.state_dir / "ledger.sqlite3").write_bytes(b"no database" * 1000)

    run = migrate(greenfly, between(data.url, green_redis.url))

    assert (run.exit_code, run.at("error", "kind")) == (5, "LedgerError")
    assert green_redis.client.dbsize() == 0


WRONG_FLAGS: dict[str, tuple[str, ...]] = {
    "a policy that is none": ("--conflict", "maybe"),
    "a database that is no number": ("--databases", "first"),
    "a database below zero": ("--databases=-1",),
    "databases and rubbish": ("--databases", "0,1,x"),
    "a configuration file that is not there": ("--config", "nowhere.toml"),
    "a password file that is not there": ("--target-password-file", "nowhere"),
}


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_flags_that_cannot_be_used(data: Store, green_redis: Store, greenfly: Greenfly, name: str) -> None:
    run = migrate(greenfly, between(data.url, green_redis.url), *WRONG_FLAGS[name])

    assert (run.exit_code, run.at("error", "kind")) == (2, "ConfigurationError")
    assert run.at("error", "remedy")
    assert green_redis.client.dbsize() == 0
    assert_works_now(greenfly, data.url, green_redis.url)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("copy = [", "greenfly.toml"),
        ("[copy]\nspeed = 3\n", "copy.speed"),
        ("[surce]\nurl = 'redis://x'\n", "surce"),
        (f"[source]\nurl = 'redis://:{SECRET}@x'\npasswort = '{SECRET}'\n", "source.passwort"),
        (f"[copy]\nconflict = '{SECRET}'\n", "copy.conflict"),
    ],
    ids=["no TOML", "unknown name", "unknown table", "misspelt secret", "wrong value"],
)
def test_a_configuration_file_that_cannot_be_used(
    data: Store, green_redis: Store, greenfly: Greenfly, content: str, named: str
) -> None:
    file = greenfly.folder / "greenfly.toml"
    file.write_text(content)

    run = migrate(greenfly, between(data.url, green_redis.url))

    assert (run.exit_code, run.at("error", "kind")) == (2, "ConfigurationError")
    assert named in str(run.at("error", "problem"))
    assert_no_secret(greenfly, run)
    file.unlink()
    assert_works_now(greenfly, data.url, green_redis.url)


def test_an_unknown_variable(data: Store, green_redis: Store, greenfly: Greenfly) -> None:
    run = migrate(greenfly, between(data.url, green_redis.url), env={"GREENFLY_SOURCE__PASWORD": SECRET})

    assert run.exit_code == 2
    assert "GREENFLY_SOURCE__PASWORD" in str(run.at("error", "problem"))
    assert_no_secret(greenfly, run)


def test_a_database_that_no_server_has(data: Store, green_redis: Store, greenfly: Greenfly) -> None:
    run = migrate(greenfly, between(data.url, green_redis.url), "--databases", "0,999")

    assert run.exit_code == 4
    assert "999" in str(run.at("error", "problem"))
    assert green_redis.client.dbsize() == 0
