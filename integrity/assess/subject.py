"""What is assessed: two servers, the settings of the run to come, and what checks ask for more than once."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Self

from integrity.assess.census import Census, take_census
from integrity.endpoint import Endpoint, Identity, read_info
from integrity.errors import ProtocolError
from integrity.progress import Progress
from integrity.replies import Reply
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

    def by(self, strategy: Strategy) -> Self:
        """The same servers by another road; what was asked already is not asked again."""
        other = copy(self)
        other.strategy = strategy
        return other

    @property
    def census_taken(self) -> Census | None:
        """The census, where a check wanted it."""
        taken = self.__dict__.get("census")
        return taken if isinstance(taken, Census) else None

    @cached_property
    def census(self) -> Census:
        """The source's keys, all or a sample.

        :raises ServerError: the source cannot be asked.
        """
        return take_census(self.reader, self.reader_identity, self.databases, self.settings, self.progress)

    @cached_property
    def source_info(self) -> dict[str, str]:
        """INFO of the source, every section that it tells (commandstats included)."""
        return _whole_info(self.source)

    @cached_property
    def target_info(self) -> dict[str, str]:
        """INFO of the target."""
        return _whole_info(self.target)

    @cached_property
    def source_commands(self) -> frozenset[str]:
        """Names of the commands that the source knows, lower case, without subcommands."""
        return _command_names(self.source)

    @cached_property
    def target_commands(self) -> frozenset[str]:
        """Names of the commands that the target knows."""
        return _command_names(self.target)

    def source_config(self, pattern: str) -> dict[str, str]:
        """CONFIG GET of the source.

        :raises PermissionRefused: it may not be asked.
        """
        return _config(self.source, pattern)

    def target_config(self, pattern: str) -> dict[str, str]:
        """CONFIG GET of the target.

        :raises PermissionRefused: it may not be asked.
        """
        return _config(self.target, pattern)


def _whole_info(endpoint: Endpoint) -> dict[str, str]:
    with endpoint.connect("assess") as connection:
        return read_info(connection, b"all") | read_info(connection)


def _command_names(endpoint: Endpoint) -> frozenset[str]:
    with endpoint.connect("assess") as connection:
        table = connection.command(b"COMMAND")
    if not isinstance(table, list):
        raise ProtocolError(
            endpoint.role, str(endpoint), "COMMAND is no table.", "Check that it may be asked."
        )
    return frozenset(
        entry[0].decode("ascii", "replace").lower().partition(" ")[0]
        for entry in table
        if isinstance(entry, list) and entry and isinstance(entry[0], bytes)
    )


def _config(endpoint: Endpoint, pattern: str) -> dict[str, str]:
    with endpoint.connect("assess") as connection:
        reply = connection.command(b"CONFIG", b"GET", pattern.encode())
    return _pairs(reply)


def _pairs(reply: Reply) -> dict[str, str]:
    if not isinstance(reply, list):
        return {}
    texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
