"""What the checks of the native road and of the way back find on real servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from greenfly.demo.servers import TlsPair
from integrity.assess.checks_native import CHECKS, NEWEST_RDB
from integrity.assess.model import Outcome, Severity
from integrity.assess.versions import rdb_version_of
from integrity.strategy import Strategy
from tests.assessing import look, subject_of
from tests.conftest import StartServer
from tests.fencing import programs
from tests.matrix.servers import Program
from tests.raw import Raw, as_bytes
from tests.servers import Store

BLOCKING: Final = (Outcome.FOUND, Severity.BLOCKING)
WARNING: Final = (Outcome.FOUND, Severity.WARNING)
INFO: Final = (Outcome.FOUND, Severity.INFO)
NATIVE: Final = Strategy.NATIVE


def narrow(store: Store, *without: str) -> str:
    """The server as a user that may do everything but these."""
    with Raw(store.url) as raw:
        raw("ACL", "SETUSER", "narrow", "on", ">x", "~*", "+@all", *(f"-{name}" for name in without))
    return store.url.replace("://", "://narrow:x@")


# -- native ------------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_nothing_speaks_against_two_fresh_servers(blue: Store, green_dragonfly: Store) -> None:
    subject = subject_of(blue.url, green_dragonfly.url, NATIVE)
    findings = {check.id: check.look(subject) for check in CHECKS}
    said = {name: each.outcome for name, each in findings.items() if each.outcome is not Outcome.PASSED}
    assert said == {"native.backlog": Outcome.FOUND, "native.shards": Outcome.NOT_APPLICABLE}
    assert findings["native.backlog"].severity is Severity.INFO
    assert findings["native.rdb-version"].evidence == {"version": 10}


def test_a_target_that_is_no_dragonfly_blocks(blue: Store, green_redis: Store) -> None:
    finding = look(subject_of(blue.url, green_redis.url, NATIVE), "native.allowed")
    assert (finding.outcome, finding.severity) == BLOCKING


@pytest.mark.dragonfly
def test_users_that_may_not_replicate_block_by_name(blue: Store, green_dragonfly: Store) -> None:
    source, target = narrow(blue, "psync"), narrow(green_dragonfly, "replicaof")
    finding = look(subject_of(source, target, NATIVE), "native.allowed")
    assert (finding.outcome, finding.severity) == BLOCKING
    assert finding.items == ("psync on the source", "replicaof on the target")
    with Raw(blue.url) as raw, Raw(green_dragonfly.url) as other:
        raw("ACL", "DELUSER", "narrow")
        other("ACL", "DELUSER", "narrow")


@pytest.mark.dragonfly
def test_a_source_that_is_a_replica_or_out_of_reach_blocks(
    start_redis: StartServer, blue: Store, green_dragonfly: Store
) -> None:
    replica = start_redis()
    port = blue.url.rpartition(":")[2]
    replica.client.replicaof("127.0.0.1", port)
    finding = look(subject_of(replica.url, green_dragonfly.url, NATIVE), "native.allowed")
    assert (finding.outcome, finding.severity) == BLOCKING
    # As if green ran elsewhere: our loopback is not its own.
    elsewhere = subject_of(blue.url, green_dragonfly.url, NATIVE)
    address = replace(elsewhere.target.address, host="192.0.2.7")
    elsewhere.target.target = replace(elsewhere.target.target, address=address)
    finding = look(elsewhere, "native.allowed")
    assert (finding.outcome, finding.severity) == BLOCKING


@pytest.mark.dragonfly
def test_a_source_that_speaks_tls_is_a_warning(
    start_redis: StartServer, green_dragonfly: Store, tls_pair: TlsPair
) -> None:
    blue = start_redis(tls=tls_pair)
    source = {"url": blue.url, "tls_ca_file": str(tls_pair.ca_file)}
    subject = subject_of(blue.url, green_dragonfly.url, NATIVE, source=source)
    finding = look(subject, "native.allowed")
    assert (finding.outcome, finding.severity) == WARNING


@pytest.mark.dragonfly
def test_keys_on_the_target_block_unless_they_may_go(blue: Store, green_dragonfly: Store) -> None:
    green_dragonfly.client.set("k", 1)
    finding = look(subject_of(blue.url, green_dragonfly.url, NATIVE), "native.target-empty")
    assert (finding.outcome, finding.severity) == BLOCKING
    replacing = subject_of(blue.url, green_dragonfly.url, NATIVE, copy={"conflict": "replace"})
    finding = look(replacing, "native.target-empty")
    assert (finding.outcome, finding.severity) == WARNING


@pytest.mark.dragonfly
def test_versions_that_dragonfly_does_not_load_block(blue: Store, green_dragonfly: Store) -> None:
    subject = subject_of(narrow(blue, "function"), green_dragonfly.url, NATIVE)
    # By its version, where its payloads may not be asked for.
    subject.source_identity = replace(subject.source_identity, version="8.6.0")
    finding = look(subject, "native.rdb-version")
    assert (finding.outcome, finding.severity) == BLOCKING
    assert finding.evidence == {"version": NEWEST_RDB + 1}
    subject.source_identity = replace(subject.source_identity, version="unknown")
    finding = look(subject, "native.rdb-version")
    assert (finding.outcome, finding.severity) == (Outcome.UNKNOWN, Severity.BLOCKING)
    subject.source_identity = replace(subject.source_identity, engine="valkey", version="9.1.2")
    assert look(subject, "native.rdb-version").outcome is Outcome.PASSED
    with Raw(blue.url) as raw:
        raw("ACL", "DELUSER", "narrow")
    subject.source_identity = replace(subject.source_identity, engine="redis", version="7.3.0")
    untried = look(subject, "native.version")
    assert (untried.outcome, untried.severity) == WARNING
    subject.target_identity = replace(subject.target_identity, version="1.38.2")
    finding = look(subject, "native.version")
    assert (finding.outcome, finding.severity) == BLOCKING


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.title)
def test_the_table_of_rdb_versions_is_what_servers_write(program: Program) -> None:
    with program.start() as server, Raw(server.url) as raw:
        raw("SET", "k", "v")
        payload = as_bytes(raw("DUMP", "k"))
        identity = subject_of(server.url, server.url).source_identity
    assert rdb_version_of(identity) == int.from_bytes(payload[-10:-8], "little")


@pytest.mark.dragonfly
def test_a_buffer_that_is_too_small_for_the_writes_is_a_warning(
    start_redis: StartServer, green_dragonfly: Store
) -> None:
    blue = start_redis("--client-output-buffer-limit", "replica", "1mb", "512kb", "60")
    subject = subject_of(blue.url, green_dragonfly.url, NATIVE)
    assert look(subject, "native.output-buffer").outcome is Outcome.PASSED
    subject.source_info["instantaneous_input_kbps"] = "5000.00"
    finding = look(subject, "native.output-buffer")
    assert (finding.outcome, finding.severity) == WARNING
    assert finding.evidence["hard_bytes"] == 1024 * 1024


@pytest.mark.dragonfly
def test_a_source_that_waits_longer_than_the_run_blocks(
    start_redis: StartServer, green_dragonfly: Store
) -> None:
    blue = start_redis(
        "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "30", "--repl-timeout", "5"
    )
    finding = look(subject_of(blue.url, green_dragonfly.url, NATIVE), "native.timeout")
    assert (finding.outcome, finding.severity) == WARNING
    blue.client.config_set("repl-timeout", 60)
    hasty = subject_of(blue.url, green_dragonfly.url, NATIVE, native={"start_seconds": 20})
    finding = look(hasty, "native.timeout")
    assert (finding.outcome, finding.severity) == BLOCKING


# -- rollback ----------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_kinds_in_use_that_do_not_come_back_whole_are_a_warning(
    start_redis: StartServer, green_dragonfly: Store
) -> None:
    blue = start_redis()
    finding = look(subject_of(blue.url, green_dragonfly.url), "rollback.readiness")
    assert (finding.outcome, finding.severity) == INFO
    assert "JSON" in finding.items
    assert "streams" not in finding.items
    blue.client.xadd("s", {"f": "v"})
    blue.client.xgroup_create("s", "g", "0")
    finding = look(subject_of(blue.url, green_dragonfly.url), "rollback.readiness")
    assert (finding.outcome, finding.severity) == WARNING
    assert finding.items == ("streams",)


def test_two_servers_of_one_version_have_a_whole_way_back_unless_there_are_rules(
    blue: Store, green_redis: Store
) -> None:
    finding = look(subject_of(blue.url, green_redis.url), "rollback.readiness")
    assert finding.items == ("expiries of hash fields",)
    ruled = look(subject_of(blue.url, green_redis.url, rules={"exclude": ["a:*"]}), "rollback.readiness")
    assert (ruled.outcome, ruled.severity, ruled.items) == (*WARNING, ("rules",))
    unwanted = subject_of(blue.url, green_redis.url, cutover={"fallback": False})
    assert look(unwanted, "rollback.readiness").outcome is Outcome.NOT_APPLICABLE


def test_a_user_that_cannot_fence_is_a_warning_by_name(blue: Store, green: Store) -> None:
    assert look(subject_of(blue.url, green.url), "rollback.fence").outcome is Outcome.PASSED
    missing = "acl" if green.engine != "dragonfly" else "acl setuser"
    finding = look(subject_of(narrow(blue, "client|pause"), narrow(green, missing)), "rollback.fence")
    with Raw(blue.url) as raw, Raw(green.url) as other:
        raw("ACL", "DELUSER", "narrow")
        other("ACL", "DELUSER", "narrow")
    assert (finding.outcome, finding.severity) == WARNING
    assert "client|pause on the source" in finding.items
    assert "acl|setuser on the target" in finding.items


def test_a_fence_that_stands_is_told(start_redis: StartServer, green_redis: Store) -> None:
    blue = start_redis()
    blue.client.acl_setuser("greenfly-fence", enabled=False)
    finding = look(subject_of(blue.url, green_redis.url), "rollback.fence")
    assert (finding.outcome, finding.severity, len(finding.items)) == (*WARNING, 1)


def test_blue_without_room_for_what_green_will_take_is_a_warning(
    start_redis: StartServer, green_redis: Store
) -> None:
    blue = start_redis()
    assert look(subject_of(blue.url, green_redis.url), "rollback.room").outcome is Outcome.PASSED
    blue.client.config_set("maxmemory", int(blue.client.info("memory")["used_memory"] * 1.05))
    finding = look(subject_of(blue.url, green_redis.url), "rollback.room")
    assert (finding.outcome, finding.severity) == WARNING


def test_an_environment_is_looked_at_by_its_settings(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    finding = look(subject_of(blue.url, green_redis.url), "rollback.environment")
    assert (finding.outcome, finding.severity) == INFO
    switch = {"kind": "dotenv", "dotenv": {"path": str(tmp_path / "app.env")}}
    configured = subject_of(blue.url, green_redis.url, switch=switch)
    assert look(configured, "rollback.environment").outcome is Outcome.PASSED
    # What applications would be given is not known: the password is not in the URL.
    loose = subject_of(blue.url, green_redis.url, switch=switch)
    loose.settings = loose.settings.model_copy(
        update={"target": loose.settings.target.model_copy(update={"username": "somebody"})}
    )
    finding = look(loose, "rollback.environment")
    assert (finding.outcome, finding.severity) == WARNING


def test_what_keeps_nothing_on_disk_is_told(start_redis: StartServer, green: Store) -> None:
    saving = start_redis("--appendonly", "yes")
    finding = look(subject_of(saving.url, green.url), "rollback.persistence")
    assert finding.items == ("the target keeps nothing on disk",)
    saving.client.config_set("appendonly", "no")
    finding = look(subject_of(saving.url, saving.url), "rollback.persistence")
    assert "the source keeps nothing on disk" in finding.items
    untold = look(subject_of(narrow(saving, "config"), narrow(saving, "config")), "rollback.persistence")
    assert (untold.outcome, untold.severity) == (Outcome.UNKNOWN, Severity.WARNING)
