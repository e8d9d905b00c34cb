"""What two servers tell about one replicating the other, read at one moment and believed only where both agree.

Dragonfly calls its link up before it has received anything, and says ``sync_in_progress:0`` then as well; what counts
is the state in ROLE.  It tells its offset only once it is synchronised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from integrity.endpoint import Endpoint, read_info
from integrity.errors import ProtocolError
from integrity.native.settings import NativeSettings
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_KEYS: Final = "keys="


class Stage(StrEnum):
    """How far green is, as its ROLE says."""

    MASTER = "master"
    """It replicates nobody."""
    CONNECTING = "connecting"
    PREPARATION = "preparation"
    """Connected; blue makes ready what it will send.  Green still shows what it held before."""
    FULL_SYNC = "full_sync"
    ONLINE = "online"
    """It has everything that blue held, and applies what is written since."""


_STAGES: Final = tuple(Stage)
"""From the least far."""


@dataclass(frozen=True, slots=True)
class GreenState:
    """Green at one moment."""

    stage: Stage
    master: tuple[str, int] | None
    """Host and port that it replicates."""
    replication_id: str
    """Of the master's history, once it has told; its own where it is a master."""
    offset: int | None
    """Bytes of the master's history that are applied; None until it is synchronised."""
    keys: int
    used_memory: int
    process: str
    """Changes with every start."""
    port: int
    """The one it announces to its master."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its master lists it."""

    host: str
    port: int
    """That it announced."""
    state: str
    offset: int
    """Bytes that it has acknowledged."""


@dataclass(frozen=True, slots=True)
class BlueState:
    """Blue at one moment."""

    run_id: str
    replication_ids: tuple[str, ...]
    offset: int
    """Bytes of its history so far."""
    replicas: tuple[Replica, ...]
    full_syncs: int
    """How often it has sent everything to a replica since it was started."""
    saving: bool
    """Whether a child process writes what a replica is to get."""
    keys: int
    databases: tuple[int, ...]
    """Those that hold keys."""

    def acknowledged(self, port: int) -> int | None:
        """What the replica that announced *port* has acknowledged; of several that may be meant, the least."""
        named = [replica.offset for replica in self.replicas if replica.port == port]
        return min(named or [replica.offset for replica in self.replicas], default=None)


def read_green(connection: Connection) -> GreenState:
    """Ask green; it answers this also while it loads.  Of several links, the one that has come least far.

    :raises ServerError: it is lost or refuses.
    """
    return least_far(read_links(connection))


def least_far(links: Sequence[GreenState]) -> GreenState:
    """Green as a whole: as far as the link that has come least far, and with an offset only where each has one."""
    last = min(links, key=lambda link: _STAGES.index(link.stage))
    offsets = [link.offset for link in links if link.offset is not None]
    return replace(last, offset=sum(offsets) if len(offsets) == len(links) else None)


def read_links(connection: Connection) -> tuple[GreenState, ...]:
    """The same for each server that green replicates, in the order in which it was told; one where it is a master.

    :raises ServerError: it is lost or refuses.
    """
    role, *sections = connection.exchange(
        [
            pack(b"ROLE"),
            *(pack(b"INFO", name) for name in (b"replication", b"keyspace", b"memory", b"server")),
        ]
    )
    info: dict[str, str] = {}
    for section in sections:
        info |= info_of(connection, section)
    blocks = _blocks(sections[0])
    return tuple(
        GreenState(
            stage,
            master,
            block.get("master_replid", ""),
            _number(block.get("slave_repl_offset")),
            sum(_keyspace(info).values()),
            _number(info.get("used_memory")) or 0,
            info.get("process_id", ""),
            _number(info.get("tcp_port")) or 0,
        )
        for stage, master in _role(connection, role)
        for block in [blocks.get(master, info)]
    )


def _blocks(section: Reply) -> dict[tuple[str, int] | None, dict[str, str]]:
    """INFO replication tells of one master after the other; by host and port."""
    found: dict[tuple[str, int] | None, dict[str, str]] = {}
    lines = section.decode("utf-8", "replace").splitlines() if isinstance(section, bytes) else []
    block: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name == "master_host":
            block = {}
        block[name] = value
        if name == "master_port":
            found[block.get("master_host", ""), _number(value) or 0] = block
    return found


def read_blue(connection: Connection) -> BlueState:
    """Ask blue.

    :raises ServerError: it is lost or refuses.
    """
    return blue_of(read_info(connection))


def blue_of(info: Mapping[str, str]) -> BlueState:
    """What blue, or one master of it, tells by INFO."""
    keyspace = _keyspace(info)
    return BlueState(
        info.get("run_id", ""),
        tuple(info[name] for name in ("master_replid", "master_replid2") if name in info),
        _number(info.get("master_repl_offset")) or 0,
        tuple(_replica(value) for name, value in info.items() if _is_replica(name)),
        _number(info.get("sync_full")) or 0,
        info.get("rdb_bgsave_in_progress") == "1",
        sum(keyspace.values()),
        tuple(sorted(keyspace)),
    )


def master_address(source: Endpoint, settings: NativeSettings) -> tuple[str, int]:
    """Host and port under which green is to reach blue."""
    address = source.address
    return settings.master_host or address.host, settings.master_port or address.port


def follows(
    green: GreenState, replication_ids: Collection[str], settings: NativeSettings, source: Endpoint
) -> bool:
    """Whether green is a replica of this very server, whoever made it one.

    :param replication_ids: of blue, where they are known.
    """
    if green.stage is Stage.MASTER:
        return False
    return green.master == master_address(source, settings) or green.replication_id in replication_ids


def unknown_commands(connection: Connection) -> dict[str, int]:
    """Names of commands that green was given and does not know, with how often: the only trace of such a drop.

    :raises ServerError: it is lost or refuses.
    """
    info = read_info(connection, b"commandstats")
    return {
        name.removeprefix("unknown_").upper(): _number(value) or 0
        for name, value in info.items()
        if name.startswith("unknown_")
    }


def info_of(connection: Connection, reply: Reply) -> dict[str, str]:
    """One section of INFO as a table.

    :raises ServerError: it is an error, or no text.
    """
    if isinstance(reply, ErrorReply):
        raise connection.error_for(reply, "INFO")
    if not isinstance(reply, bytes):
        raise ProtocolError(connection.role, connection.where, "INFO is no text.", "Check the server.")
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}


def _role(connection: Connection, reply: Reply) -> list[tuple[Stage, tuple[str, int] | None]]:
    """Stage and address of each master."""
    if isinstance(reply, ErrorReply):
        raise connection.error_for(reply, "ROLE")
    match reply:
        case [b"master", *_]:
            return [(Stage.MASTER, None)]
        case [b"slave" | b"replica", _, _, _, *_]:
            links = [_link(reply[at : at + 3]) for at in range(1, len(reply) - len(reply) % 3, 3)]
            known = [link for link in links if link is not None]
            if len(known) == len(links):
                return [(stage, master) for stage, master in known]
    raise ProtocolError(
        connection.role,
        connection.where,
        "ROLE answered in an unknown shape.",
        "This version knows the states that Dragonfly 1.40 tells.",
    )


def _link(part: Sequence[Reply]) -> tuple[Stage, tuple[str, int]] | None:
    match part:
        case [bytes(host), bytes() | int() as port, bytes(stage)]:
            name = stage.decode("ascii", "replace")
            if name in set(Stage):
                return Stage(name), (host.decode("utf-8", "replace"), int(port))
    return None


def _keyspace(info: Mapping[str, str]) -> dict[int, int]:
    return {
        int(name[2:]): _number(value.removeprefix(_KEYS).split(",", 1)[0]) or 0
        for name, value in info.items()
        if name[:2] == "db" and name[2:].isdecimal() and value.startswith(_KEYS)
    }


def _is_replica(name: str) -> bool:
    return name.startswith("slave") and name[5:].isdecimal()


def _replica(value: str) -> Replica:
    facts = dict(part.split("=", 1) for part in value.split(",") if "=" in part)
    return Replica(
        facts.get("ip", ""),
        _number(facts.get("port")) or 0,
        facts.get("state", ""),
        _number(facts.get("offset")) or 0,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
