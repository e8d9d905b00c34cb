"""The write fence: no application writes to this server any more, until the fence is lifted.

::

    plan → (recorded) → pause → refuse → unpause → drain what was written until then
                                       … later, or on undo: lift

CLIENT PAUSE only delays: what it delayed runs when it ends, on Dragonfly also for clients that have left.  Each
delayed command asks for its rights again then, so the refusal must be in force before the pause ends, and Greenfly's
own writes, which the pause delays as well, come after it.  ``docs/fence.md`` tells what was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import sleep
from typing import Final

from integrity.cluster.members import Member
from integrity.endpoint import Endpoint
from integrity.errors import PermissionRefused, ProtocolError, Refused
from integrity.replies import ErrorReply
from integrity.switch import min_replicas
from integrity.switch.access import (
    delete_users,
    own_name,
    read_users,
    rules_of,
    set_rules,
    user_names,
)
from integrity.switch.clients import Software
from integrity.switch.fence_plan import FencedUser, FencePlan, FenceProbe, Method, Possibility
from integrity.switch.own_user import temporary
from integrity.switch.rights import Rights
from integrity.wire import Connection, pack

_MARK: Final = "greenfly-fence"
"""A user without any right that stands on a server as long as a fence does, and tells administrators why."""
_TRIAL: Final = "greenfly-trial"
_PAUSE_TRIES: Final = 3
_PAUSE_ENDS_SECONDS: Final = 0.03
"""Dragonfly looks every 10 ms whether a pause was ended; a new one before that would bring the old one back."""


class Fence:
    """One server's fence.  Holds no state of its own: any process can go on with the recorded plan.

    :param endpoint: as configured, not as a user made by :func:`~integrity.switch.own_user.elevated`.
    :param keep_users: users that may go on writing.
    """

    def __init__(self, endpoint: Endpoint, identity: Software, *, keep_users: Sequence[str] = ()) -> None:
        self._endpoint = endpoint
        self._identity = identity
        self._dragonfly = identity.engine == "dragonfly"
        self._keep_users = tuple(keep_users)
        self._rights = Rights(identity, keep_users)

    # -- before -------------------------------------------------------------------------------------------------

    def probe(self) -> FenceProbe:
        """What is possible on this server, and whom it would concern; without a lasting effect.

        :raises ServerUnreachable: the server cannot be reached.
        """
        with self._connect() as connection:
            acl, by_replicas = self._try_acl(connection), self._try_min_replicas(connection)
            pause = self._try_pause(connection)
            method: Method | None = (
                "acl" if acl.possible else "min-replicas" if by_replicas.possible else None
            )
            fenced = by_replicas.possible and min_replicas.in_force(connection)
            if method != "acl":
                return FenceProbe(acl, by_replicas, pause, method, already_fenced=fenced)
            users = read_users(connection)
            own = own_name(connection)
            kept = self._rights.kept(connection, own)
            writers = [user.name for user in self._rights.writers(connection, users)]
            return FenceProbe(
                acl,
                by_replicas,
                pause,
                method,
                users=tuple(name for name in writers if name not in kept),
                kept=tuple(name for name in writers if name in kept),
                own_user=own,
                own_user_fenced=own not in kept,
                already_fenced=fenced or any(user.name == _MARK for user in users),
            )

    def plan(self) -> FencePlan:
        """What :meth:`refuse` will do; to be recorded before it is called.

        :raises Refused: nothing is possible on this server, or a fence stands already.
        :raises ServerError: the server cannot be asked.
        """
        probe = self.probe()
        require_plannable(self._endpoint, probe)
        return self.plan_by(probe)

    def plan_by(self, probe: FenceProbe) -> FencePlan:
        """The plan by the method that *probe* names.

        :raises ServerError: the server cannot be asked.
        """
        with self._connect() as connection:
            if probe.method == "min-replicas":
                count, lag = min_replicas.read(connection)
                return FencePlan("min-replicas", min_replicas_before=count, max_lag_before=lag)
            commands = self._rights.commands(connection)
            users = [user for user in read_users(connection) if user.name in probe.users]
        return FencePlan(
            "acl",
            users=tuple(users),
            refusal=("-@write", *(f"-{name}" for name in commands.outside_category)),
            kept=tuple(dict.fromkeys((*self._keep_users, *probe.kept))),
        )

    # -- putting it up ------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Delay every writer for so long, or until :meth:`unpause`; returns when no write is under way any more.

        :raises ServerError: the server cannot, or does not allow it.
        """
        with self._connect() as connection:
            self._pause(connection, seconds)

    def refuse(self, plan: FencePlan) -> None:
        """Refuse writes for good, on existing connections and new ones; returns when it is in force.

        Closes the connections of applications that wait in BLPOP and the like (they were allowed to, and a write of
        Greenfly's would serve them), and on Dragonfly those that did not come in at Greenfly's own port.  Can be
        repeated.  Does not end a pause.

        :raises Refused: it is not in force, because a user came up that the plan does not know.
        :raises ServerError: the server does not allow it; some users may be refused by then, and :meth:`lift` undoes
            that.
        """
        with self._connect() as connection:
            if plan.method == "min-replicas":
                min_replicas.refuse(connection)
                return
            set_rules(connection, [(_MARK, ["off", "resetkeys", "-@all"])])
            there = set(user_names(connection))
            set_rules(
                connection,
                [(user.name, _refused(user, plan.refusal)) for user in plan.users if user.name in there],
            )
            if self._dragonfly:
                # A command that was allowed before, and waits for its turn, is not asked again: wait for those.
                self._pause(connection, 0.001)
            through = self._rights.getting_through(connection, plan)
            self._rights.close_unreached(connection, plan)
        if through:
            raise Refused(
                f"{self._endpoint} still lets {', '.join(through)} write.",
                "They came up or were changed after the fence was planned: lift the fence and plan it anew.",
            )

    def unpause(self) -> None:
        """Let delayed commands go on; with the refusal in force, writes among them are answered with an error.

        :raises ServerError: the server cannot be reached, or does not allow it.
        """
        with self._connect() as connection:
            self._unpause(connection)

    # -- looking and undoing ------------------------------------------------------------------------------------

    def holds(self, plan: FencePlan) -> bool:
        """Whether the refusal is in force now; a restart of the server, say, forgets it.

        :raises ServerError: the server cannot be asked.
        """
        return not self.breaches(plan)

    def breaches(self, plan: FencePlan) -> tuple[str, ...]:
        """Who can write although the fence of *plan* should keep them from it.

        :raises ServerError: the server cannot be asked.
        """
        with self._connect() as connection:
            if plan.method == "min-replicas":
                return () if min_replicas.in_force(connection) else ("everybody",)
            return tuple(self._rights.getting_through(connection, plan))

    def stands(self) -> bool:
        """Whether there is anything of a fence of whatever plan.

        :raises ServerError: the server cannot be asked.
        """
        with self._connect() as connection:
            try:
                names = user_names(connection)
            except (PermissionRefused, ProtocolError):
                names = []
            if _MARK in names:
                return True
            try:
                return not self._dragonfly and min_replicas.in_force(connection)
            except (PermissionRefused, ProtocolError):
                return False

    def lift(self, plan: FencePlan) -> tuple[Member, ...]:
        """Give back exactly the rights that there were, delete users that Greenfly made, and end a pause.

        Can be repeated, also where nothing was done yet.  Connections of the deleted users are closed.

        :returns: nodes that are dead, and on which it may stand when they come back; here there is but one, so none.
        :raises ServerError: the server cannot be reached, or does not allow it.
        """
        with self._connect() as connection:
            if plan.method == "min-replicas":
                min_replicas.restore(connection, plan.min_replicas_before, plan.max_lag_before)
            else:
                now = {user.name: user for user in read_users(connection)}
                changed = [
                    user
                    for user in plan.users
                    if user.name in now
                    and (now[user.name].commands, now[user.name].selectors) != (user.commands, user.selectors)
                ]
                set_rules(connection, [(user.name, _restored(user)) for user in changed])
                own = [*temporary(now), *({_MARK, _TRIAL} & now.keys())]
                delete_users(connection, [name for name in own if name not in self._keep_users])
            # Where a pause cannot be ended, none can have been begun.
            with suppress(PermissionRefused, ProtocolError):
                self._unpause(connection)
        return ()

    # -- trying -------------------------------------------------------------------------------------------------

    def _try_acl(self, connection: Connection) -> Possibility:
        try:
            read_users(connection)
            self._rights.commands(connection)
            set_rules(connection, [(_TRIAL, ["off"])])
            delete_users(connection, [_TRIAL])
            if self._rights.unbound(connection):
                return Possibility(
                    False,
                    "Applications are connected through Dragonfly's unix socket, where no ACL binds them.",
                    "Let them connect by TCP.",
                )
        except (PermissionRefused, ProtocolError) as error:
            return Possibility(False, error.problem, "Give Greenfly's user the right to ACL.")
        return Possibility(True)

    def _try_min_replicas(self, connection: Connection) -> Possibility:
        if self._dragonfly:
            return Possibility(False, "Dragonfly has no min-replicas-to-write.")
        if _version(self._identity.version) < (7, 0):
            return Possibility(
                False,
                f"min-replicas-to-write of {self._identity.engine.capitalize()} {self._identity.version} lets scripts "
                "write.",
                "Upgrade to 7.0 or later.",
            )
        try:
            min_replicas.try_out(connection)
        except (PermissionRefused, ProtocolError) as error:
            return Possibility(False, error.problem, "Give Greenfly's user the right to CONFIG.")
        return Possibility(True)

    def _try_pause(self, connection: Connection) -> Possibility:
        try:
            self._pause(connection, 0.001, tries=1)
        except (PermissionRefused, ProtocolError) as error:
            return Possibility(
                False,
                error.problem,
                "Give Greenfly's user the right to CLIENT; if commands run long, try again.",
            )
        return Possibility(True)

    # -- pausing ------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        return self._endpoint.connect("fence")

    def _pause(self, connection: Connection, seconds: float, *, tries: int = _PAUSE_TRIES) -> None:
        command = pack(b"CLIENT", b"PAUSE", b"%d" % max(1, round(seconds * 1000)), b"WRITE")
        for left in reversed(range(tries)):
            reply = connection.exchange([command])[0]
            if not isinstance(reply, ErrorReply):
                return
            # Dragonfly gives up where a command runs for more than a second.
            if not left or "Failed to pause" not in str(reply):
                raise connection.error_for(reply, "CLIENT PAUSE")

    def _unpause(self, connection: Connection) -> None:
        connection.command(b"CLIENT", b"UNPAUSE")
        if self._dragonfly:
            sleep(_PAUSE_ENDS_SECONDS)


def require_plannable(endpoint: Endpoint, probe: FenceProbe) -> None:
    """
    :raises Refused: nothing is possible on this server, or a fence stands already.
    """
    if probe.already_fenced:
        raise Refused(
            f"A fence stands on {endpoint} already; what there was before it cannot be read any more.",
            "Lift it by its recorded plan first.",
        )
    if probe.method is None:
        reasons = " ".join(p.reason for p in (probe.acl, probe.min_replicas) if p.reason)
        remedies = " ".join(p.remedy for p in (probe.acl, probe.min_replicas) if p.remedy)
        raise Refused(f"Applications cannot be kept from writing to {endpoint}. {reasons}", remedies)


def _refused(user: FencedUser, refusal: Sequence[str]) -> list[str]:
    return [*refusal, *_with_selectors([selector.rule(*refusal) for selector in user.selectors])]


def _restored(user: FencedUser) -> list[str]:
    # Not by giving +@write back: the user may have had a part of it, and the order of rules counts.
    return ["-@all", *rules_of(user.commands), *_with_selectors([s.rule() for s in user.selectors])]


def _with_selectors(selectors: list[str]) -> list[str]:
    return ["clearselectors", *selectors] if selectors else []


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
