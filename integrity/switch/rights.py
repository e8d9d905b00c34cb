"""Which users and connections could write to a server past a fence, and closing those that no rule reaches."""

from __future__ import annotations

from collections.abc import Sequence

from integrity.errors import PermissionRefused
from integrity.switch.access import UserRules, WriteCommands, own_name, read_users
from integrity.switch.clients import Software, application_clients, kill, own_entrance
from integrity.switch.fence_plan import FencePlan
from integrity.switch.own_user import temporary
from integrity.wire import Connection


class Rights:
    """What applications may do on one server.

    :param keep_users: users that may go on writing.
    """

    def __init__(self, identity: Software, keep_users: Sequence[str]) -> None:
        self._identity = identity
        self._dragonfly = identity.engine == "dragonfly"
        self._keep_users = tuple(keep_users)
        self._commands: WriteCommands | None = None

    def commands(self, connection: Connection) -> WriteCommands:
        """The commands that a fence is about; asked for once."""
        if self._commands is None:
            # Dragonfly's EXEC does not ask again for the rights of what was queued before the fence.
            also = ["exec"] if self._dragonfly else []
            self._commands = WriteCommands.read(connection, also=also)
        return self._commands

    def writers(self, connection: Connection, users: Sequence[UserRules]) -> list[UserRules]:
        """Those of *users* that may change data, without Greenfly's own; EXEC alone changes none."""
        commands = self.commands(connection)
        return [
            user for user in users if commands.permitted_to(user) - {"exec"} and not temporary([user.name])
        ]

    def kept(self, connection: Connection, own: str) -> tuple[str, ...]:
        """Users that may go on writing, where Greenfly is configured with the user *own*."""
        if own in self._keep_users or own == "default" or self._shared(connection, own):
            return self._keep_users
        return (*self._keep_users, own)

    def unbound(self, connection: Connection) -> bool:
        """Whether applications come in where no ACL binds them: through Dragonfly's unix socket."""
        return self._dragonfly and any(
            client.entrance == "unix" for client in application_clients(connection, self._identity)
        )

    def getting_through(self, connection: Connection, plan: FencePlan) -> list[str]:
        """Who can write although the fence of *plan* should keep them from it."""
        users = read_users(connection)
        found = {user.name for user in self.writers(connection, users)} - set(plan.kept)
        if self._dragonfly:
            commands, planned = self.commands(connection), {user.name for user in plan.users}
            found |= {user.name for user in users if user.name in planned and commands.permitted_to(user)}
        own = own_name(connection)
        if own in plan.kept and own not in self._keep_users and self._shared(connection, own):
            found.add(own)
        return [*sorted(found), *(["clients of its unix socket"] if self.unbound(connection) else [])]

    def close_unreached(self, connection: Connection, plan: FencePlan) -> None:
        """Close the connections of applications that changed rules do not reach."""
        clients = [
            client
            for client in application_clients(connection, self._identity)
            if client.user not in plan.kept
        ]
        waiting = self.commands(connection).categories.get("blocking", frozenset())
        # A command that a pause delays is blocked too on Redis, but it asks for its rights when the pause ends.
        close = [c for c in clients if c.blocked and (c.last_command or "blpop") in waiting]
        if self._dragonfly:
            # Its rules reach only connections at the main port at once; the others when they connect anew, and never
            # those of the unix socket, which are told of instead.
            own = own_entrance(connection)
            close += [c for c in clients if c.entrance not in {own, "unix"}]
        kill(connection, close)

    def _shared(self, connection: Connection, user: str) -> bool:
        """Whether an application is connected as *user*; so it counts where that cannot be known (on Dragonfly)."""
        try:
            clients = application_clients(connection, self._identity)
        except PermissionRefused:
            return True
        return self._dragonfly or any(client.user in {None, user} for client in clients)
