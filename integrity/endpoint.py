"""One Redis-compatible server: how to reach it, who it is, and what it can do (probed, never guessed)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pydantic import SecretStr

from integrity.address import Address, parse_address
from integrity.cluster.connection import ClusterConnection
from integrity.cluster.sentinel import connect_master
from integrity.cluster.slots import SLOTS, probe_key, slots_text
from integrity.cluster.topology import Cluster, Master
from integrity.errors import ConfigurationError, ProtocolError, Refused, Role, ServerNotReady, ServerReadOnly
from integrity.info import engine_of, field_expiries_of, keyspace_of, merge_info, number, parse_info
from integrity.replies import ErrorReply
from integrity.settings import EndpointSettings
from integrity.wire import Connection, Target, TlsFiles, pack


@dataclass(frozen=True, slots=True)
class Shard:
    """One master of a cluster, at one moment."""

    node_id: str
    address: str
    run_id: str
    version: str
    keys: int
    slots: str
    """``0-5460, 7000``."""
    slots_moving: int
    """Slots that are on their way to or from it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server is, at one moment."""

    address: str
    """Masked address."""
    engine: str
    """``redis``, ``valkey`` or ``dragonfly``."""
    version: str
    run_id: str
    """Changes with every start of the server; cursors and checkpoints are void under another one."""
    role: str
    """``master`` or ``replica``."""
    mode: str
    """``standalone``, ``cluster`` or ``sentinel``."""
    used_memory: int
    """Bytes."""
    max_memory: int
    """Bytes; 0 is no limit."""
    databases: dict[int, int]
    """Database number → keys, only those that hold any."""
    has_pexpiretime: bool
    """Whether the server tells absolute expiries (Redis ≥ 7.0, Dragonfly); else PTTL and its clock are used."""
    field_expiries: str
    """Hash fields with an expiry: ``none``, ``some``, or ``unknown`` where the server does not tell."""
    observed_at: datetime
    shards: tuple[Shard, ...] = ()
    """The masters of a cluster; everything else is about all of them together."""

    @property
    def is_cluster(self) -> bool:
        """Whether several masters hold the keys."""
        return bool(self.shards)

    @property
    def lists_slots(self) -> bool:
        """Whether keys are found slot by slot, wherever the slots are; Dragonflies are scanned as wholes."""
        return self.is_cluster and self.engine != "dragonfly"

    @property
    def keys(self) -> int:
        """Keys in all databases, expired ones that linger included."""
        return sum(self.databases.values())

    @property
    def parses_before_replacing(self) -> bool:
        """Whether a RESTORE … REPLACE that fails leaves the old value; Dragonfly has destroyed it by then.

        The same engines run a transaction as one step on one thread.
        """
        return self.engine in {"redis", "valkey"}

    @property
    def title(self) -> str:
        """For people: ``Redis 7.0.15``."""
        return f"{self.engine.capitalize()} {self.version}"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        facts = asdict(self)
        facts["databases"] = {str(number): keys for number, keys in self.databases.items()}
        facts["observed_at"] = self.observed_at.isoformat()
        return facts


class Endpoint:
    """A server in one role.  ``str()`` masks secrets."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.role: Role = target.role

    def __str__(self) -> str:
        return str(self.target.address)

    @property
    def address(self) -> Address:
        """The parsed URL."""
        return self.target.address

    @classmethod
    def from_settings(cls, role: Role, settings: EndpointSettings) -> Endpoint:
        """Build from settings.

        :raises ConfigurationError: no URL, a wrong URL, or a password file that cannot be read.
        """
        if settings.url is None:
            raise ConfigurationError(
                f"No {role} is set.",
                f"Give --{role} URL, GREENFLY_{role.upper()}__URL, or [{role}] url in greenfly.toml.",
            )
        address = parse_address(settings.url.get_secret_value(), f"{role}.url")
        password = address.password
        if password is None and isinstance(settings.password, SecretStr):
            password = settings.password.get_secret_value()
        if password is None and settings.password_file is not None:
            try:
                password = settings.password_file.read_text("utf-8").split("\n", 1)[0].rstrip("\r")
            except (OSError, UnicodeDecodeError) as error:
                detail = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise ConfigurationError(
                    f"{role}.password_file {settings.password_file} cannot be read ({detail}).",
                    "Check path and rights.",
                ) from error
        return cls(
            Target(
                role=role,
                address=address,
                username=address.username or settings.username,
                password=password,
                tls=TlsFiles(
                    settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file, settings.tls_verify
                ),
                connect_timeout=settings.connect_timeout,
                io_timeout=settings.io_timeout,
            )
        )

    def connect(self, purpose: str, database: int = 0) -> Connection:
        """Open a connection named ``greenfly:<purpose>``, visible in CLIENT LIST.

        To every master of a cluster, as one; to the master that Sentinels name.
        """
        name = f"greenfly:{purpose}"
        match self.address.mode:
            case "cluster":
                return ClusterConnection(self.target, name=name, database=database)
            case "sentinel":
                return connect_master(self.target, name=name, database=database)
            case "single":
                return Connection(self.target, name=name, database=database)

    @property
    def is_cluster(self) -> bool:
        """Whether the URL names a cluster."""
        return self.address.mode == "cluster"

    def identify(self) -> Identity:
        """Ask the server, or every master of the cluster, who it is.

        :raises ServerNotReady: it is loading its dataset, or slots are served by nobody.
        :raises Refused: it is a sentinel, or a cluster node that was addressed as a single server.
        """
        if self.is_cluster:
            with ClusterConnection(self.target, name="greenfly:check") as cluster:
                return self._identify_cluster(cluster)
        with self.connect("check") as connection:
            info = read_info(connection)
            if info.get("loading", "0") != "0":
                raise ServerNotReady(
                    self.role,
                    str(self),
                    "is still loading its dataset.",
                    "Wait until it has loaded, then start again.",
                )
            mode = _mode(connection, info)
            self._require_whole(mode)
            probe, fields = connection.exchange(
                [
                    pack(b"PEXPIRETIME", b"greenfly:probe"),
                    pack(b"HPEXPIRETIME", b"greenfly:probe", b"FIELDS", b"1", b"f"),
                ]
            )
            if isinstance(probe, ErrorReply) and "unknown command" not in str(probe).lower():
                raise connection.error_for(probe, "PEXPIRETIME")
            if isinstance(fields, ErrorReply) and str(fields).startswith("NOPERM"):
                raise connection.error_for(fields, "HPEXPIRETIME")
        engine, version = engine_of(info)
        return Identity(
            address=str(self),
            engine=engine,
            version=version,
            run_id=info.get("run_id") or info.get("master_replid", ""),
            role="master" if info.get("role", "master") == "master" else "replica",
            mode=mode,
            used_memory=number(info.get("used_memory")),
            max_memory=number(info.get("maxmemory")),
            databases=keyspace_of(info),
            has_pexpiretime=isinstance(probe, int),
            field_expiries="none" if isinstance(fields, ErrorReply) else field_expiries_of(info),
            observed_at=datetime.now(UTC),
        )

    def _require_whole(self, mode: str) -> None:
        """
        :raises Refused: what answers holds no data, or only a part of the keys.
        """
        if mode == "sentinel":
            raise Refused(
                f"{self.role.capitalize()} {self} is a Sentinel, which holds no data.",
                "Give the master's own address, or redis+sentinel://host:port/master-name.",
            )
        if mode == "cluster":
            raise Refused(
                f"{self.role.capitalize()} {self} is a node of a cluster, which holds only a part of the keys.",
                f"Write {self.address.scheme}+cluster:// for the whole cluster.",
            )

    def _identify_cluster(self, connection: ClusterConnection) -> Identity:
        """
        :raises ServerError: a master is lost, loading, or does not allow a question.
        :raises Refused: it is a single Dragonfly.
        """
        cluster = connection.cluster()
        probes = []
        for master in cluster.masters:
            key = _key_of(cluster, master)
            probes += [pack(b"PEXPIRETIME", key), pack(b"HPEXPIRETIME", key, b"FIELDS", b"1", b"f")]
        replies = connection.exchange(probes)
        times, fields = replies[::2], replies[1::2]
        for reply, command in [(r, "PEXPIRETIME") for r in times] + [(r, "HPEXPIRETIME") for r in fields]:
            if isinstance(reply, ErrorReply) and "unknown command" not in str(reply).lower():
                raise connection.error_for(reply, command)
        infos = [master.info for master in cluster.masters]
        merged = merge_info(infos, cluster.run_id)
        # The oldest of the nodes sets what can be relied upon.
        engine, version = min(
            map(engine_of, infos), key=lambda found: [number(part) for part in found[1].split(".")]
        )
        told = {
            "none" if isinstance(reply, ErrorReply) else field_expiries_of(info)
            for reply, info in zip(fields, infos, strict=True)
        }
        if engine == "dragonfly" and len(cluster.masters) == 1:
            raise Refused(
                f"{self.role.capitalize()} {self} is one Dragonfly that serves every slot.",
                "Address it by redis://, like any single server.",
            )
        return Identity(
            address=str(self),
            engine=engine,
            version=version,
            run_id=cluster.run_id,
            role="master",
            mode="cluster",
            used_memory=number(merged.get("used_memory")),
            max_memory=number(merged.get("maxmemory")),
            databases=keyspace_of(merged),
            has_pexpiretime=all(isinstance(reply, int) for reply in times),
            field_expiries=next(word for word in ("some", "unknown", "none") if word in told),
            observed_at=datetime.now(UTC),
            shards=_shards(self.address, cluster),
        )

    def require_writable(self) -> None:
        """Try a write that changes nothing (DEL of a key that no one has), in a cluster on every master.

        :raises ServerReadOnly: a read-only replica.
        :raises PermissionRefused: the user may not write, or not list a cluster's slots.
        """
        if self.is_cluster:
            with ClusterConnection(self.target, name="greenfly:check") as connection:
                cluster = connection.cluster()
                for master in cluster.masters:
                    connection.command(b"DEL", _key_of(cluster, master))
                # Asked for when everything is written and compared; better known before.
                connection.command(b"SCAN", b"0", b"COUNT", b"1")
            return
        with self.connect("check") as connection:
            info = read_info(connection, b"replication")
            if info.get("role") == "slave" and info.get("slave_read_only", "1") == "1":
                raise ServerReadOnly(
                    self.role,
                    str(self),
                    "is a read-only replica.",
                    "Point to its master, or promote it first.",
                )
            connection.command(b"DEL", b"greenfly:probe")


def read_info(connection: Connection, section: bytes | None = None) -> dict[str, str]:
    """INFO as a flat table."""
    reply = connection.command(b"INFO", section) if section else connection.command(b"INFO")
    if not isinstance(reply, bytes):
        raise ProtocolError(
            connection.role, connection.where, "INFO is no text.", "Check that this is a Redis server."
        )
    return parse_info(reply)


def _mode(connection: Connection, info: dict[str, str]) -> str:
    """How the server is run; a Dragonfly that emulates a cluster holds every key, like a server of its own."""
    if info.get("cluster_enabled") != "1":
        return info.get("redis_mode", "standalone")
    if "dragonfly_version" in info:
        slots = connection.exchange([pack(b"CLUSTER", b"SLOTS")])[0]
        if isinstance(slots, list) and len(slots) == 1 and isinstance(slots[0], list):
            return "standalone" if slots[0][:2] == [0, SLOTS - 1] else "cluster"
    # A lone node of Redis that has every slot would still refuse commands about keys of several.
    return "cluster"


def _key_of(cluster: Cluster, master: Master) -> bytes:
    """A key that nobody has, and that this master would have."""
    return probe_key(next(slot for slot in range(SLOTS) if cluster.owners[slot] is master))


def _shards(address: Address, cluster: Cluster) -> tuple[Shard, ...]:
    return tuple(
        Shard(
            node_id=master.node_id,
            address=str(address.node(master.place.host, master.place.port)),
            run_id=master.run_id,
            version=engine_of(master.info)[1],
            keys=sum(keyspace_of(master.info).values()),
            slots=slots_text(slot for slot in range(SLOTS) if cluster.owners[slot] is master),
            slots_moving=master.moving,
        )
        for master in cluster.masters
    )
