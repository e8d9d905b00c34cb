"""What on blue keeps Dragonfly from loading what it is sent: one such thing, and it begins again and again.

Asked before green is emptied, and again where replication did not come to its end, to name the likely cause.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from integrity.cluster.connection import ClusterConnection
from integrity.cluster.nodes import node_target
from integrity.endpoint import Endpoint, Identity, read_info
from integrity.errors import PermissionRefused, ProtocolError
from integrity.keyspace import scan_command, scan_reply
from integrity.replies import ErrorReply, Reply
from integrity.transfer.payload import FOOTER_BYTES, rdb_version
from integrity.wire import Connection, pack

NEWEST_RDB_VERSION: Final = 12
"""The newest file format that Dragonfly 1.40 loads."""
_FIELD_EXPIRY_TYPES: Final = frozenset({22, 24, 25})
"""Hashes whose fields expire, or once did: Valkey's, Redis' large and small ones."""
_MEMORY_FACTOR: Final = 1.05
"""Dragonfly refuses what needed more than this times its own limit."""
_SMALL_BYTES: Final = 64 * 1024
_ATTEMPTS: Final = 5
_SEARCH_SECONDS: Final = 5.0
_PAGE: Final = 500
_NAMED: Final = 5


def obstacles(source: Endpoint, blue: Identity, green: Identity) -> list[str]:
    """Sentences about what Dragonfly cannot load for certain; empty where nothing is known.

    :raises ServerError: blue is lost.
    """
    found: list[str] = []
    for node in nodes_of(source):
        with node.connect("native") as connection:
            found += [_functions(connection), _field_expiries(connection), _version(connection, blue)]
    if green.max_memory and blue.used_memory > _MEMORY_FACTOR * green.max_memory:
        found.append(
            f"Blue uses {blue.used_memory:,} bytes of memory, and green's maxmemory is {green.max_memory:,}: raise "
            "that, or Dragonfly refuses what it is sent."
        )
    return [text for text in dict.fromkeys(found) if text]


def nodes_of(source: Endpoint) -> list[Endpoint]:
    """The source itself, or each master of the cluster that it is.

    :raises ServerError: the cluster does not answer.
    """
    if not source.is_cluster:
        return [source]
    with ClusterConnection(source.target, name="greenfly:native") as connection:
        masters = connection.cluster().masters
    return [Endpoint(node_target(source.target, master.place)) for master in masters]


def hashes_that_expire(source: Endpoint, databases: tuple[int, ...]) -> list[str]:
    """A sentence about hashes whose fields once expired, looked for during a few seconds; empty where none is found.

    Such a hash is sent in a form of its own as long as it lives, and not every version counts it.

    :raises ServerError: blue is lost, or refuses.
    """
    until = monotonic() + _SEARCH_SECONDS
    names: list[str] = []
    for database in databases:
        with source.connect("native", database) as connection:
            cursor: int | None = 0
            while cursor is not None and monotonic() < until and len(names) < _NAMED:
                following, keys = scan_reply(
                    connection, connection.exchange([scan_command(cursor, _PAGE)])[0]
                )
                names += [f"{key!r} in database {database}" for key in _expiring(connection, keys)]
                cursor = following or None
    if not names:
        return []
    return [
        f"These hashes have, or had, fields that expire, and Dragonfly cannot load such a hash: "
        f"{', '.join(names[:_NAMED])}; there may be more."
    ]


def _expiring(connection: Connection, keys: list[bytes]) -> list[bytes]:
    types = connection.exchange([pack(b"TYPE", key) for key in keys])
    hashes = [key for key, kind in zip(keys, types, strict=True) if kind == b"hash"]
    sizes = connection.exchange([pack(b"MEMORY", b"USAGE", key) for key in hashes])
    small = [
        key for key, size in zip(hashes, sizes, strict=True) if isinstance(size, int) and size <= _SMALL_BYTES
    ]
    payloads = connection.exchange([pack(b"DUMP", key) for key in small])
    return [
        key
        for key, payload in zip(small, payloads, strict=True)
        if isinstance(payload, bytes) and payload[0] in _FIELD_EXPIRY_TYPES
    ]


def _functions(connection: Connection) -> str:
    reply = connection.exchange([pack(b"FUNCTION", b"LIST")])[0]
    if not isinstance(reply, list) or not reply:
        return ""  # None, none known, or not to be asked.
    names = sorted(_library_name(library) for library in reply)
    return (
        f"Blue has function libraries ({', '.join(names)}), and Dragonfly cannot load any: it would begin again and "
        "again. Delete them (FUNCTION DELETE), or use --strategy copy."
    )


def _library_name(library: Reply) -> str:
    if isinstance(library, list):
        for name, value in zip(library[::2], library[1::2], strict=False):
            if name == b"library_name" and isinstance(value, bytes):
                return value.decode("utf-8", "replace")
    return "?"


def _field_expiries(connection: Connection) -> str:
    keyspace = read_info(connection, b"keyspace")
    counts = [
        int(number)
        for value in keyspace.values()
        for name, _, number in (part.partition("=") for part in value.split(","))
        if name in {"subexpiry", "keys_with_volatile_items"} and number.isdecimal()
    ]
    if not sum(counts):
        return ""
    return (
        f"Blue has {sum(counts):,} hashes with fields that expire, and Dragonfly cannot load any of them this way. Use "
        "--strategy copy, which carries them."
    )


def _version(connection: Connection, blue: Identity) -> str:
    if blue.engine != "redis":
        return ""  # Valkey sends its replicas what they understand.
    version = _file_version(connection)
    if version is None or version <= NEWEST_RDB_VERSION:
        return ""
    return (
        f"{blue.title} sends RDB version {version}, and Dragonfly loads none above {NEWEST_RDB_VERSION}. Use "
        "--strategy copy, which relabels payloads."
    )


def _file_version(connection: Connection) -> int | None:
    """The version in the footer of any small key's payload; None where no key tells it."""
    for _ in range(_ATTEMPTS):
        try:
            key = connection.command(b"RANDOMKEY")
            if not isinstance(key, bytes):
                return None
            size = connection.exchange([pack(b"MEMORY", b"USAGE", key)])[0]
            if not isinstance(size, int) or size > _SMALL_BYTES:
                continue
            payload = connection.exchange([pack(b"DUMP", key)])[0]
        except (PermissionRefused, ProtocolError):
            return None
        if isinstance(payload, bytes) and len(payload) > FOOTER_BYTES:
            return rdb_version(payload)
        if isinstance(payload, ErrorReply):
            return None
    return None
