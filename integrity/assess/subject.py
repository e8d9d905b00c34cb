"""What is assessed: two servers (or clusters), the settings of the run to come, and what checks ask more than once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import cached_property
from typing import Self

from integrity.assess.census import Census, take_census
from integrity.assess.cluster_nodes import servers_of
from integrity.assess.command_table import CommandTable
from integrity.assess.connected import Client
from integrity.assess.merged_info import merged_info
from integrity.assess.server import Server
from integrity.endpoint import Endpoint, Identity
from integrity.errors import Refused
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.strategy import Strategy


class Subject:
    """One assessment's servers; asks each thing once, and only where a check wants it.

    :param strategy: the road that is assessed; never ``auto``.
    :param databases: of the source, that the run is about.
    :param reader: the replica of the source that keys are read from, where there is one.
    """

    def __init__(
        self,
        settings: Settings,
        source: Endpoint,
        target: Endpoint,
        source_identity: Identity,
        target_identity: Identity,
        strategy: Strategy,
        databases: tuple[int, ...],
        progress: Progress,
        *,
        reader: Endpoint | None = None,
        reader_identity: Identity | None = None,
    ) -> None:
        self.settings = settings
        self.source = source
        self.target = target
        self.source_identity = source_identity
        self.target_identity = target_identity
        self.strategy = strategy
        self.databases = databases
        self.progress = progress
        self.reader = reader or source
        self.reader_identity = reader_identity or source_identity
        self.census_taken: Census | None = None
        """Where a check wanted it."""
        self._source_servers: tuple[Server, ...] = ()
        self._target_servers: tuple[Server, ...] = ()
        self._source_of, self._target_of = source, target

    def by(self, strategy: Strategy) -> Self:
        """The same servers by another road; what was asked already is not asked again."""
        other = copy(self)
        other.strategy = strategy
        return other

    def narrowed(self, source: Server | None = None, target: Server | None = None) -> Subject:
        """The same with one node in place of a cluster."""
        other = Subject(
            self.settings,
            source.endpoint if source else self.source,
            target.endpoint if target else self.target,
            source.identity if source else self.source_identity,
            target.identity if target else self.target_identity,
            self.strategy,
            self.databases,
            self.progress,
            reader=None if source else self.reader,
            reader_identity=None if source else self.reader_identity,
        )
        other._source_servers = (source,) if source else self.source_servers
        other._target_servers = (target,) if target else self.target_servers
        return other

    # -- servers ------------------------------------------------------------------------------------------------

    @property
    def source_servers(self) -> tuple[Server, ...]:
        """The source, or each master of the cluster that it is.

        :raises ServerError: the cluster does not tell its masters.
        """
        if not self._source_servers or self._source_of is not self.source:
            self._source_servers, self._source_of = servers_of(self.source, self.source_identity), self.source
        if not self.source_identity.is_cluster:
            self._source_servers[0].identity = self.source_identity
        return self._source_servers

    @property
    def target_servers(self) -> tuple[Server, ...]:
        """The target, or each master of the cluster that it is.

        :raises ServerError: the cluster does not tell its masters.
        """
        if not self._target_servers or self._target_of is not self.target:
            self._target_servers, self._target_of = servers_of(self.target, self.target_identity), self.target
        if not self.target_identity.is_cluster:
            self._target_servers[0].identity = self.target_identity
        return self._target_servers

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While this lasts, connections are kept, and what was asked is remembered."""
        with ExitStack() as stack:
            for server in (*self.source_servers, *self.target_servers):
                stack.enter_context(server.kept())
            yield

    @property
    def target_share(self) -> float:
        """The part of all slots that the target serves."""
        return self.target_servers[0].share if len(self.target_servers) == 1 else 1.0

    # -- what is asked more than once ---------------------------------------------------------------------------

    @property
    def census(self) -> Census:
        """The source's keys, all or a sample; taken when it is first asked for.

        :raises ServerError: the source cannot be asked.
        """
        if self.census_taken is None:
            self.census_taken = self.take_census(self.progress)
        return self.census_taken

    def take_census(self, progress: Progress) -> Census:
        """Look at the keys now.

        :raises ServerError: the source cannot be asked.
        """
        return take_census(self.reader, self.reader_identity, self.databases, self.settings, progress)

    @cached_property
    def source_info(self) -> dict[str, str]:
        """INFO of the source, every section that it tells (commandstats included); of a cluster, added up."""
        return merged_info([server.info for server in self.source_servers])

    @cached_property
    def target_info(self) -> dict[str, str]:
        """INFO of the target."""
        return merged_info([server.info for server in self.target_servers])

    @property
    def source_table(self) -> CommandTable:
        """The commands that the source knows, or any node of it.

        :raises PermissionRefused: it may not be asked.
        """
        return CommandTable.of_any([server.table for server in self.source_servers])

    @property
    def target_table(self) -> CommandTable:
        """The commands that the target knows, and each node of it.

        :raises PermissionRefused: it may not be asked.
        """
        return CommandTable.of_all([server.table for server in self.target_servers])

    @cached_property
    def source_commands(self) -> frozenset[str]:
        """Names of the commands that the source knows, lower case, without subcommands."""
        return frozenset(self.source_table.entries)

    @cached_property
    def target_commands(self) -> frozenset[str]:
        """Names of the commands that the target knows."""
        return frozenset(self.target_table.entries)

    @property
    def source_clients(self) -> list[Client]:
        """Every connection to the source, or to any node of it, that is not Greenfly's own.

        :raises PermissionRefused: the user may not list clients.
        """
        return [client for server in self.source_servers for client in server.clients]

    def source_config(self, name: str) -> str | None:
        """One setting of the source; None where it has none of that name.

        :raises PermissionRefused: it may not be asked.
        :raises Refused: the source is several servers.
        """
        return _only(self.source_servers).config(name)

    def target_config(self, name: str) -> str | None:
        """One setting of the target.

        :raises PermissionRefused: it may not be asked.
        :raises Refused: the target is several servers.
        """
        return _only(self.target_servers).config(name)


def _only(servers: tuple[Server, ...]) -> Server:
    if len(servers) != 1:
        raise Refused("The nodes of a cluster have settings of their own.", "Assess each node by itself.")
    return servers[0]
