"""Every node that can be written to, or come to be: masters and replicas, of a cluster or under Sentinels.

Access rules are no part of replication, so whoever changes them has to change them everywhere: a replica takes a dead
master's place within a second, and a node that has joined without a slot is given one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

from integrity.cluster.nodes import Nodes, Place, node_target, seeds
from integrity.cluster.sentinel import ask_sentinel, find_master
from integrity.cluster.topology import NOT_CONFIGURED
from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError, Refused, ServerError, ServerNotReady, ServerUnreachable
from integrity.replies import ErrorReply, Reply
from integrity.wire import Target, pack

_CONNECT_SECONDS: Final = 2.0
_AT_A_TIME: Final = 16
_AWAY: Final = (ServerUnreachable, ServerNotReady)
_NODES: Final = pack(b"CLUSTER", b"NODES")
_SLOTS: Final = pack(b"CLUSTER", b"SLOTS")


@dataclass(frozen=True, slots=True)
class Member:
    """One node, as the others see it."""

    name: str
    """The node's id in a cluster, its address under Sentinels: what it keeps when it starts again."""
    endpoint: Endpoint
    is_master: bool
    failed: bool
    """Whether the others hold it for dead."""

    @property
    def place(self) -> Place:
        """Where it listens."""
        return Place(self.endpoint.address.host, self.endpoint.address.port)


def read_members(endpoint: Endpoint, known: Sequence[Place] = ()) -> tuple[Member, ...]:
    """Every node behind an address, replicas first; the server itself where there is but one.

    :param known: nodes that are asked where none of the URL's answers.
    :raises ServerError: no node answers, or one does not allow the question.
    """
    match endpoint.address.mode:
        case "cluster":
            members = _of_cluster(endpoint, known)
        case "sentinel":
            members = _under_sentinels(endpoint)
        case "single":
            place = Place(endpoint.address.host, endpoint.address.port)
            members = [Member(str(place), endpoint, is_master=True, failed=False)]
    return tuple(sorted(members, key=lambda member: (member.is_master, member.name)))


def on_each(members: Sequence[Member], do: Callable[[Member], object]) -> tuple[Member, ...]:
    """Do something on every node, also on those behind one that fails, and tell which are dead.

    Those of one role that stand together have their turn at the same time, each in a thread: a fence over a hundred
    nodes must not take a hundred times as long.  Dead is what does not answer and is held for dead by the other nodes,
    too: nobody can write there for now.

    :raises GreenflyError: the first failure, when all nodes had their turn.
    """

    def attempt(member: Member) -> GreenflyError | None:
        try:
            do(member)
        except (ServerError, Refused) as error:
            return error
        return None

    failures: list[tuple[Member, GreenflyError | None]] = []
    for _, of_a_role in groupby(members, key=lambda member: member.is_master):
        group = list(of_a_role)
        if not group[1:]:
            failures += [(member, attempt(member)) for member in group]
            continue
        with ThreadPoolExecutor(min(_AT_A_TIME, len(group)), thread_name_prefix="greenfly:node") as pool:
            failures += zip(group, pool.map(attempt, group), strict=True)
    dead = [member for member, error in failures if member.failed and isinstance(error, _AWAY)]
    for member, error in failures:
        if error is not None and member not in dead:
            raise error
    return tuple(dead)


def unlisted_member(endpoint: Endpoint, place: Place) -> Member:
    """A server that Sentinels knew of, and do not list now; where it does not answer, it counts as dead."""
    return _member(endpoint.target, str(place), place, is_master=False, failed=True)


def _member(target: Target, name: str, place: Place, is_master: bool, failed: bool) -> Member:
    reached = _hasty(target) if failed else target
    return Member(name, Endpoint(node_target(reached, place)), is_master, failed)


# -- clusters --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What the nodes say about one of them."""

    place: Place
    is_master: bool
    said_failed: list[bool] = field(default_factory=list)
    by_itself: bool = False

    @property
    def is_dead(self) -> bool:
        """Whether it says nothing, and all others that it has failed."""
        return not self.by_itself and bool(self.said_failed) and all(self.said_failed)


def _of_cluster(endpoint: Endpoint, known: Sequence[Place]) -> list[Member]:
    target = endpoint.target
    with closing(Nodes(_hasty(target), "greenfly:members")) as nodes:
        try:
            seen = _ask_around(nodes, seeds(target))
        except (ServerUnreachable, ServerNotReady):
            if not known:
                raise
            seen = _ask_around(nodes, known)
    return [_member(target, name, node.place, node.is_master, node.is_dead) for name, node in seen.items()]


def _ask_around(nodes: Nodes, first: Sequence[Place]) -> dict[str, _Seen]:
    """What every node that answers says of all, by their ids.

    :raises Refused: a node is in no cluster.
    :raises ServerError: none answers, or one does not allow the question.
    """
    seen: dict[str, _Seen] = {}
    waiting, asked = list(first), set[Place]()
    failure: ServerError | None = None
    while waiting:
        place = waiting.pop(0)
        if place in asked:
            continue
        asked.add(place)
        try:
            lines, hosts = _told_by(nodes, place)
        except (ServerUnreachable, ServerNotReady) as error:
            nodes.drop(place)
            failure = error
            continue
        if len(lines) == 1 and not lines[0].serves and (seen or waiting):
            continue  # It was taken out of the cluster, and the URL names it still.
        for line in lines:
            at = hosts.get(line.name) or line.place
            node = seen.setdefault(line.name, _Seen(at, line.is_master))
            if line.is_itself:
                node.by_itself, node.is_master = True, line.is_master
            else:
                node.said_failed.append(line.failed)
            if not line.failed:
                waiting.append(at)
    if not seen:
        raise failure or ServerUnreachable(nodes.target.role, str(nodes.target.address), "no node answers.")
    return seen


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of CLUSTER NODES."""

    name: str
    place: Place
    is_itself: bool
    is_master: bool
    failed: bool
    serves: bool


def _told_by(nodes: Nodes, place: Place) -> tuple[list[_Line], dict[str, Place]]:
    """The lines of CLUSTER NODES, and the addresses under which the nodes want to be reached."""
    connection = nodes(place)
    listed, slots = connection.exchange([_NODES, _SLOTS])
    for reply, command in ((listed, "CLUSTER NODES"), (slots, "CLUSTER SLOTS")):
        if isinstance(reply, ErrorReply):
            if str(reply).startswith(NOT_CONFIGURED):
                raise ServerNotReady(
                    connection.role,
                    connection.where,
                    "is a node that was not told which slots are whose.",
                    "Send every node its DFLYCLUSTER CONFIG.",
                )
            if "cluster support disabled" in str(reply):
                raise Refused(
                    f"{connection.role.capitalize()} {connection.where} is no node of a cluster.",
                    "Use redis:// for a single server.",
                )
            raise connection.error_for(reply, command)
    lines = []
    for text in listed.decode("utf-8", "replace").splitlines() if isinstance(listed, bytes) else []:
        parts = text.split(" ")
        flags = parts[2].split(",") if len(parts) > 7 else ["handshake"]
        if {"handshake", "noaddr"} & set(flags):
            continue
        host, _, port = parts[1].partition(",")[0].partition("@")[0].rpartition(":")
        lines.append(
            _Line(
                name=parts[0],
                place=Place(host.strip("[]") or place.host, int(port)),
                is_itself="myself" in flags,
                is_master="master" in flags,
                failed="fail" in flags,
                serves=len(parts) > 8,
            )
        )
    return lines, _hosts(slots, place)


def _hosts(slots: Reply, asked: Place) -> dict[str, Place]:
    """Node id → what CLUSTER SLOTS tells; an address that is not told is the one that was asked."""
    found: dict[str, Place] = {}
    for entry in slots if isinstance(slots, list) else []:
        for node in entry[2:] if isinstance(entry, list) else []:
            if not isinstance(node, list) or len(node) < 3:
                continue
            host, port, name = node[:3]
            if not isinstance(port, int) or not isinstance(name, bytes) or host == b"?":
                continue
            text = host.decode("utf-8", "replace") if isinstance(host, bytes) else ""
            found[name.decode("utf-8", "replace")] = Place(text or asked.host, port)
    return found


# -- Sentinels -------------------------------------------------------------------------------------------------------


def _under_sentinels(endpoint: Endpoint) -> list[Member]:
    """The master, and the replicas that any Sentinel knows of."""
    target = endpoint.target
    master = find_master(target)
    found = {master: False}
    answered = False
    failure: ServerError | None = None
    question = pack(b"SENTINEL", b"REPLICAS", target.address.service.encode())
    for place in seeds(target):
        try:
            reply = ask_sentinel(target, place, question)
        except ServerError as error:
            failure = error
            continue
        answered = True
        for facts in _tables(reply):
            replica = Place(facts.get("ip", ""), int(facts.get("port", "0")))
            down = bool({"s_down", "o_down"} & set(facts.get("flags", "").split(",")))
            if replica != master:
                found[replica] = found.get(replica, True) and down
    if failure is not None and not answered:
        raise failure
    return [_member(target, str(place), place, place == master, failed) for place, failed in found.items()]


def _tables(reply: Reply) -> list[dict[str, str]]:
    tables = []
    for item in reply if isinstance(reply, list) else []:
        if isinstance(item, list):
            texts = [part.decode("utf-8", "replace") for part in item if isinstance(part, bytes)]
            tables.append(dict(zip(texts[::2], texts[1::2], strict=False)))
    return tables


def _hasty(target: Target) -> Target:
    """A node that does not answer must not keep the others waiting."""
    return replace(target, connect_timeout=min(target.connect_timeout, _CONNECT_SECONDS))
