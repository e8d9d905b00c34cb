"""Whether Dragonfly can replicate this source by itself; only asked where that is the road."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from integrity.assess.memory import MIB, MemoryNeed, mib, number
from integrity.assess.model import Check, Finding, Reach, Severity, found, not_applicable, passed, unknown
from integrity.assess.needed_rights import RunPart, Side, rights
from integrity.assess.subject import Subject
from integrity.assess.versions import rdb_version_of, version_of
from integrity.errors import PermissionRefused, ProtocolError
from integrity.native.shards import emulates, follows_source
from integrity.settings import ConflictPolicy
from integrity.strategy import Strategy
from integrity.transfer.payload import rdb_version
from integrity.wire import pack

NEWEST_RDB: Final = 12
"""The newest RDB version that Dragonfly 1.40 loads."""
_OFFSET_SINCE: Final = (1, 39)
"""From when on Dragonfly tells how far it has followed a Redis."""
_TRIED: Final = {
    "redis": frozenset({(6, 2), (7, 0), (7, 4), (8, 2)}),
    "valkey": frozenset({(8, 0), (9, 1)}),
}
_LOADED_PER_SECOND: Final = 30 * MIB
"""Bytes of the source's memory that a full synchronisation carries in a second, measured; slower over a network."""
_LEAST_TIMEOUT: Final = 10


def _allowed(subject: Subject) -> Finding:
    source, target = subject.source_identity, subject.target_identity
    remedy = "Use --strategy copy."
    if target.engine != "dragonfly":
        return found(Severity.BLOCKING, f"The target is {target.title}, not a Dragonfly.", remedy)
    if source.engine == "dragonfly":
        return found(
            Severity.BLOCKING, "The source is a Dragonfly; only Redis and Valkey are replicated.", remedy
        )
    if source.role != "master":
        return found(Severity.BLOCKING, "The source is a replica itself.", f"Name its master. {remedy}")
    if _reaches_itself(subject):
        return found(
            Severity.BLOCKING,
            f"The source is {subject.source} here; under that name the target would reach itself.",
            "Set native.master_host and native.master_port to how the target reaches the source.",
        )
    lacking = [*_lacking(subject, "source"), *_lacking(subject, "target")]
    if lacking:
        return found(
            Severity.BLOCKING,
            f"Replication is not allowed: {', '.join(lacking)}.",
            f"Give the users these rights (a managed server may have none of them). {remedy}",
            items=tuple(lacking),
        )
    host = subject.settings.native.master_host or subject.source.address.host
    port = subject.settings.native.master_port or subject.source.address.port
    road = f"Whether the target reaches the source at {host}:{port} cannot be tried from here."
    if subject.source.address.scheme == "rediss":
        return found(
            Severity.WARNING,
            f"The source speaks TLS, and whether the target was started for that, it does not tell. {road}",
            "Start Dragonfly with --tls_replication and the tls_* files.",
        )
    return passed(f"Replication is allowed on both sides. {road}", host=host, port=port)


def _reaches_itself(subject: Subject) -> bool:
    source, target = subject.source.address, subject.target.address
    if subject.settings.native.master_host is not None:
        return False
    if source.scheme == "unix":
        return True
    return target.scheme != "unix" and _is_loopback(source.host) and not _is_loopback(target.host)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_OF_REPLICATION: Final[dict[Side, frozenset[str]]] = {
    "source": frozenset({"psync", "replconf", "ping"}),
    "target": frozenset({"replicaof", "role", "config|get", "config|set", "info"}),
}


def _lacking(subject: Subject, side: Side) -> list[str]:
    server = (subject.source_servers if side == "source" else subject.target_servers)[0]
    wanted = [
        right
        for right in rights(side, [RunPart.NATIVE], server.identity.engine)
        if right.command in _OF_REPLICATION[side]
    ]
    tried = server.tried(wanted)
    return [f"{right.command} on the {side}" for right in tried.lacking(wanted)]


def _rdb_version(subject: Subject) -> Finding:
    identity = subject.source_identity
    if identity.engine == "valkey":
        return passed(f"{identity.title} sends a replica of another kind the form that it understands.")
    version = _told_version(subject) or rdb_version_of(identity)
    if version is None:
        return unknown(
            Severity.BLOCKING,
            f"Which RDB version {identity.title} writes is not known.",
            "Use --strategy copy, which relabels payloads.",
        )
    if version > NEWEST_RDB:
        return found(
            Severity.BLOCKING,
            f"{identity.title} sends RDB version {version}, and Dragonfly loads none above {NEWEST_RDB}.",
            "Use --strategy copy, which relabels payloads.",
            version=version,
        )
    return passed(f"{identity.title} sends RDB version {version}.", version=version)


def _told_version(subject: Subject) -> int | None:
    """From the footer of its functions, which is there without any; None before Redis 7.0."""
    payload = subject.source_servers[0].ask(pack(b"FUNCTION", b"DUMP"))[0]
    return rdb_version(payload) if isinstance(payload, bytes) else None


def _output_buffer(subject: Subject) -> Finding:
    limit = _config(subject, "client-output-buffer-limit")
    remedy = "Raise it for the time: CONFIG SET client-output-buffer-limit 'replica 4gb 2gb 300'."
    if limit is None:
        return unknown(
            Severity.WARNING,
            "The source does not tell how much it keeps for a replica that is slow; beyond that it drops the link, and "
            "everything begins anew.",
            f"See client-output-buffer-limit there. {remedy}",
        )
    hard, soft, seconds = _replica_limit(limit)
    expected = _expected_bytes(subject)
    evidence: dict[str, object] = {
        "hard_bytes": hard,
        "soft_bytes": soft,
        "soft_seconds": seconds,
        "expected_bytes": expected,
    }
    lasts = _sync_seconds(subject)
    over = (hard and expected > hard) or (soft and expected > soft and lasts > seconds)
    if over:
        return found(
            Severity.WARNING,
            f"At the present rate about {mib(expected)} are written while everything is sent (about {lasts:,.0f} s), "
            f"and the source keeps {mib(hard or soft)} for a replica: it would drop the link, and everything would "
            "begin anew.",
            remedy,
            items=(),
            **evidence,
        )
    text = "any amount" if not hard and not soft else mib(hard or soft)
    return passed(
        f"The source keeps {text} for a replica, and about {mib(expected)} are expected.", **evidence
    )


def _replica_limit(text: str) -> tuple[int, int, int]:
    """Hard and soft limit in bytes, and seconds; 0 for none."""
    words = text.split()
    for name in ("replica", "slave"):
        if name in words and len(words) >= words.index(name) + 4:
            at = words.index(name)
            hard, soft, seconds = (int(word) if word.isdecimal() else 0 for word in words[at + 1 : at + 4])
            return hard, soft, seconds
    return 0, 0, 0


def _expected_bytes(subject: Subject) -> int:
    """Written while everything is sent, at most: all that came in counts as writes."""
    kilobytes = subject.source_info.get("instantaneous_input_kbps", "0")
    try:
        rate = float(kilobytes) * 1024
    except ValueError:
        rate = 0.0
    return int(rate * _sync_seconds(subject))


def _sync_seconds(subject: Subject) -> float:
    return _delay(subject) + MemoryNeed.of(subject).keys / _LOADED_PER_SECOND


def _delay(subject: Subject) -> int:
    """Seconds that the source waits for more replicas before it begins."""
    if _config(subject, "repl-diskless-sync") != "yes":
        return 0
    text = _config(subject, "repl-diskless-sync-delay") or "5"
    return int(text) if text.isdecimal() else 5


def _backlog(subject: Subject) -> Finding:
    return found(
        Severity.INFO,
        "A link that drops, if only for a moment, empties the target and begins everything anew: Dragonfly never goes "
        "on where it was, whatever the source's backlog holds.",
        "Keep the two close to each other; native.max_full_syncs bounds how often. Or use --strategy copy.",
        items=(),
        backlog_bytes=number(subject.source_info, "repl_backlog_size"),
    )


def _timeout(subject: Subject) -> Finding:
    timeout, ping = _config(subject, "repl-timeout"), _config(subject, "repl-ping-replica-period")
    if timeout is None or not timeout.isdecimal():
        return unknown(
            Severity.WARNING,
            "The source does not tell after how long it takes a replica for lost.",
            "See repl-timeout there; 60 seconds is usual.",
        )
    delay = _delay(subject)
    evidence: dict[str, object] = {"timeout_seconds": int(timeout), "delay_seconds": delay}
    if int(timeout) < _LEAST_TIMEOUT or (ping and ping.isdecimal() and int(ping) >= int(timeout)):
        return found(
            Severity.WARNING,
            f"The source takes a replica for lost after {timeout} s of silence (it asks every {ping} s): a long fork "
            "or a stalled network drops the link, and everything begins anew.",
            "Set repl-timeout to 60 for the time.",
            items=(),
            **evidence,
        )
    start = subject.settings.native.start_seconds
    if delay >= start:
        return found(
            Severity.BLOCKING,
            f"The source waits {delay} s before it sends anything (repl-diskless-sync-delay), and native.start_seconds "
            f"is {start:g}.",
            "Lower the one or raise the other.",
            items=(),
            **evidence,
        )
    return passed(
        f"A replica may be silent for {timeout} s; the source waits {delay} s before it sends anything.",
        **evidence,
    )


def _version(subject: Subject) -> Finding:
    source, target = subject.source_identity, subject.target_identity
    if target.engine != "dragonfly":
        return not_applicable("The target is no Dragonfly.")
    if version_of(target.version) < _OFFSET_SINCE:
        return found(
            Severity.BLOCKING,
            f"{target.title} does not tell how far it has followed a Redis, so that it has everything could not be "
            "known.",
            "Upgrade it to 1.40, or use --strategy copy.",
        )
    if version_of(source.version) not in _TRIED.get(source.engine, frozenset()):
        return found(
            Severity.WARNING,
            f"{source.title} was not tried as a master of Dragonfly by Greenfly's authors.",
            "Everything is compared afterwards all the same; try it with a copy of the data first.",
        )
    return passed(f"{source.title} was tried as a master of Dragonfly.")


def _target_empty(subject: Subject) -> Finding:
    keys = subject.target_identity.keys
    if not keys:
        return passed("The target is empty; replication would empty it.")
    if follows_source(subject.settings, subject.source, subject.target, subject.target_identity):
        return passed("The target replicates this source already; it is not emptied.", keys=keys)
    replaces = subject.settings.copying.conflict is ConflictPolicy.REPLACE
    return found(
        Severity.WARNING if replaces else Severity.BLOCKING,
        f"Replication deletes the {keys:,} keys that the target holds, in every database.",
        "Empty it, or say --conflict replace if they may go; --strategy copy keeps what the source does not have.",
        keys=keys,
    )


def _shards(subject: Subject) -> Finding:
    """Whether every master of a cluster can be replicated by one Dragonfly."""
    identity = subject.source_identity
    if not identity.is_cluster:
        return not_applicable("The source is one server.")
    evidence: dict[str, object] = {"slots": {shard.address: shard.slots for shard in identity.shards}}
    if not emulates(subject.target):
        return found(
            Severity.BLOCKING,
            f"The target replicates one master only, and the cluster has {len(identity.shards)}.",
            "Start Dragonfly with --cluster_mode=emulated, or use --strategy copy.",
            items=(),
            **evidence,
        )
    in_pieces = [shard.address for shard in identity.shards if ", " in shard.slots]
    if in_pieces:
        return found(
            Severity.WARNING,
            f"The slots of {len(in_pieces)} masters are several stretches. Dragonfly empties only one of them when it "
            "begins anew, so a link that drops ends the strategy there and then.",
            "Keep the two close to each other, or use --strategy copy.",
            items=(),
            **evidence,
        )
    return passed(
        f"Each of {len(identity.shards)} masters can be replicated by itself. A failover, a restart or slots that move "
        "meanwhile end the strategy.",
        **evidence,
    )


def _config(subject: Subject, name: str) -> str | None:
    """One setting of the source; None where it does not tell."""
    try:
        return subject.source_config(name)
    except (PermissionRefused, ProtocolError):
        return None


def _check(
    name: str,
    title: str,
    worst: Severity,
    look: Callable[[Subject], Finding],
    *,
    source: Reach = Reach.EACH,
) -> Check:
    return Check(
        f"native.{name}",
        title,
        worst,
        look,
        strategies=frozenset({Strategy.NATIVE}),
        source=source,
        target=Reach.WHOLE,
        at_cutover=False,
    )


CHECKS: Final = (
    _check("allowed", "Replication is allowed", Severity.BLOCKING, _allowed),
    _check("shards", "The masters of a cluster", Severity.BLOCKING, _shards, source=Reach.WHOLE),
    _check("version", "Versions that were tried", Severity.BLOCKING, _version),
    _check("rdb-version", "The source's RDB version", Severity.BLOCKING, _rdb_version),
    _check("target-empty", "Keys on the target", Severity.BLOCKING, _target_empty, source=Reach.WHOLE),
    _check("output-buffer", "The source's buffer for a replica", Severity.WARNING, _output_buffer),
    _check("timeout", "The source's patience with a replica", Severity.BLOCKING, _timeout),
    _check("backlog", "A link that drops", Severity.INFO, _backlog),
)
