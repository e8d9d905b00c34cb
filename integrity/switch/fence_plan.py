"""What a fence will do, as a value that the ledger keeps and that is enough to undo it; and what a server allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from integrity.errors import LedgerError
from integrity.switch.access import Selector, UserRules

Method = Literal["acl", "min-replicas"]
METHODS: tuple[Method, ...] = ("acl", "min-replicas")

FencedUser = UserRules
"""A user as it was before the fence."""


@dataclass(frozen=True, slots=True)
class FencePlan:
    """Recorded before anything is done; holds no password and no hash of one."""

    method: Method
    users: tuple[FencedUser, ...] = ()
    refusal: tuple[str, ...] = ()
    """The rules that are added to each of the users'."""
    kept: tuple[str, ...] = ()
    """Users that may go on writing: ``keep_users``, and Greenfly's own where no application uses it."""
    min_replicas_before: int | None = None
    max_lag_before: int | None = None
    """``min-replicas-max-lag`` in seconds; where it is 0 the server counts no replicas at all."""
    nodes: tuple[NodePlan, ...] = ()
    """One plan for each node of a cluster, or of those that Sentinels watch; then the plans are theirs."""

    @property
    def user_names(self) -> tuple[str, ...]:
        """Who is refused, on whatever node."""
        plans = [self, *(node.plan for node in self.nodes)]
        return tuple(dict.fromkeys(user.name for plan in plans for user in plan.users))

    @property
    def greenfly_can_write(self) -> bool:
        """Whether Greenfly can write behind this fence, through :func:`~integrity.switch.own_user.elevated`."""
        return self.method == "acl"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self) | {
            "users": [
                asdict(user) | {"selectors": [asdict(s) for s in user.selectors]} for user in self.users
            ],
            "refusal": list(self.refusal),
            "kept": list(self.kept),
            "nodes": [node.to_dict() for node in self.nodes],
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, object]) -> FencePlan:
        """What :meth:`to_dict` made, also after a way through JSON.

        :raises LedgerError: it is not that.
        """
        method = next((method for method in METHODS if method == facts.get("method")), None)
        if method is None:
            raise _unreadable("method")
        return cls(
            method=method,
            users=tuple(_user(user) for user in _list(facts, "users")),
            refusal=tuple(_text(rule, "refusal") for rule in _list(facts, "refusal")),
            kept=tuple(_text(name, "kept") for name in _list(facts, "kept")),
            min_replicas_before=_number(facts, "min_replicas_before"),
            max_lag_before=_number(facts, "max_lag_before"),
            nodes=tuple(_node(node) for node in _list({"nodes": ()} | dict(facts), "nodes")),
        )


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What will be done on one node."""

    name: str
    """As :class:`~integrity.cluster.members.Member` calls it."""
    place: str
    """Where it listened, as ``host:port``."""
    plan: FencePlan

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"name": self.name, "place": self.place, "plan": self.plan.to_dict()}


@dataclass(frozen=True, slots=True)
class Possibility:
    """Whether a server allows one means, and if not, why, and what to do about it."""

    possible: bool
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class FenceProbe:
    """What a fence could do on a server, found out without a lasting effect."""

    acl: Possibility
    min_replicas: Possibility
    pause: Possibility
    """CLIENT PAUSE … WRITE."""
    method: Method | None
    """What :meth:`~integrity.switch.fence.Fence.plan` would choose; None where nothing is possible."""
    users: tuple[str, ...] = ()
    """Users that would be refused to write."""
    kept: tuple[str, ...] = ()
    """Users that may write and would go on doing so."""
    own_user: str | None = None
    """The user that Greenfly is configured with; None where the server does not tell."""
    own_user_fenced: bool = False
    """Whether Greenfly has to write through :func:`~integrity.switch.own_user.elevated` behind the fence."""
    nodes: int = 1
    """How many nodes it is about."""
    already_fenced: bool = False
    """Whether a fence stands there now; it has to be lifted by its recorded plan before another is planned."""

    @property
    def greenfly_can_write(self) -> bool:
        """Whether Greenfly could write behind the fence; ``min-replicas`` refuses everybody."""
        return self.method == "acl"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self) | {"users": list(self.users), "kept": list(self.kept)}


def _node(facts: object) -> NodePlan:
    plan = facts.get("plan") if isinstance(facts, Mapping) else None
    if not isinstance(facts, Mapping) or not isinstance(plan, Mapping):
        raise _unreadable("nodes")
    return NodePlan(
        name=_text(facts.get("name"), "nodes"),
        place=_text(facts.get("place"), "nodes"),
        plan=FencePlan.from_dict(plan),
    )


def _user(facts: object) -> FencedUser:
    if not isinstance(facts, Mapping):
        raise _unreadable("users")
    return FencedUser(
        name=_text(facts.get("name"), "users"),
        enabled=facts.get("enabled") is True,
        commands=_text(facts.get("commands"), "users"),
        selectors=tuple(_selector(selector) for selector in _list(facts, "selectors")),
    )


def _selector(facts: object) -> Selector:
    if not isinstance(facts, Mapping):
        raise _unreadable("selectors")
    return Selector(
        commands=_text(facts.get("commands"), "selectors"),
        keys=_text(facts.get("keys"), "selectors"),
        channels=_text(facts.get("channels"), "selectors"),
        databases=_text(facts.get("databases"), "selectors"),
    )


def _list(facts: Mapping[str, object], name: str) -> list[object] | tuple[object, ...]:
    value = facts.get(name)
    if not isinstance(value, list | tuple):
        raise _unreadable(name)
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _unreadable(name)
    return value


def _number(facts: Mapping[str, object], name: str) -> int | None:
    value = facts.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise _unreadable(name)
    return value


def _unreadable(part: str) -> LedgerError:
    return LedgerError(
        f"The recorded plan of a fence cannot be read ({part}).",
        "It was written by another version of Greenfly; lift the fence with that one.",
    )
