"""One batch of keys on its way: read from the source, packed for the target.

Strings, most keys of most stores, take a short way: one MGET reads a whole page of them, one MSET writes them, and
PEXPIREAT follows for those that expire; that costs both servers half of what DUMP and RESTORE do.  MGET answers nil
for every other type; those keys are dumped over a second connection while the next page is already being read.

SET … PXAT would be one command instead of two, but where its time is exactly now Dragonfly (1.40) sets no expiry at
all.  Under the policy ``skip`` every key is dumped: RESTORE tells whether the key was there, with its expiry, in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final, cast

from integrity.expiry import NO_KEY, Commands, expiry_commands, take_expiries
from integrity.keyspace import Page
from integrity.replies import ErrorReply, Reply
from integrity.rules import Rules
from integrity.settings import ConflictPolicy
from integrity.standby import Standby
from integrity.transfer.typed_reads import typed_commands, typed_payloads
from integrity.wire import Connection, argument, arguments_of, bulk_headers, every

_NEVER: Final = b"$1\r\n0\r\n"
_RESTORE: Final = b"*5\r\n$7\r\nRESTORE\r\n"
RESTORE_REPLACE: Final = b"*6\r\n$7\r\nRESTORE\r\n"
_ABSTTL: Final = b"$6\r\nABSTTL\r\n"
REPLACE_ABSTTL: Final = b"$7\r\nREPLACE\r\n" + _ABSTTL


@dataclass(frozen=True, slots=True)
class Portion:
    """Keys of a batch that are written with the same command."""

    keys: list[bytes]
    values: list[bytes]
    """Strings, or DUMP payloads."""
    names: list[bytes]
    """The keys' names on the target as RESP arguments."""
    when: list[bytes]
    """The absolute expiries as RESP arguments; 0 for none."""

    def only(self, positions: Sequence[int]) -> Portion:
        """Some of the same keys."""
        return Portion(
            [self.keys[i] for i in positions],
            [self.values[i] for i in positions],
            [self.names[i] for i in positions],
            [self.when[i] for i in positions],
        )


@dataclass(frozen=True, slots=True)
class HalfRead:
    """A page of which the strings are read, and the other keys are asked for."""

    page: Page
    strings: Portion
    others: list[int]
    """Positions in the page."""
    expiries: list[Reply]


@dataclass(frozen=True, slots=True)
class Batch:
    """A page's keys, ready to be written."""

    page: Page
    strings: Portion
    dumped: Portion
    vanished: int
    """Keys that were gone when they were read."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as it goes to the target."""

    batch: Batch
    expiring: list[int]
    """Positions among the strings of those that expire: one more command each."""
    commands: bytes


class BatchReader:
    """Makes batches out of pages.

    :param absolute: whether the source tells absolute expiries.
    :param dumps_all: read strings by DUMP like every other type.
    :param by_type: read what is no string by the commands of its type, and make the payload here.
    """

    def __init__(self, rules: Rules, *, absolute: bool, dumps_all: bool, by_type: bool = False) -> None:
        self.by_type = by_type and not dumps_all
        self._rules = rules
        self._absolute = absolute
        self._dumps_all = dumps_all

    def commands(self, page: Page) -> Commands:
        """What reads a page's strings and every expiry."""
        if not page.keys:
            return b"", 0
        expiries, count = expiry_commands(page.arguments, absolute=self._absolute)
        if self._dumps_all:
            return expiries, count
        mget = b"*%d\r\n$4\r\nMGET\r\n%b" % (len(page.keys) + 1, b"".join(page.arguments))
        return mget + expiries, 1 + count

    def take_strings(self, source: Connection, page: Page, replies: list[Reply]) -> HalfRead:
        """The replies to :meth:`commands`.

        :raises ServerError: the source refused a command.
        """
        if not page.keys:
            return HalfRead(page, Portion([], [], [], []), [], [])
        values: Reply = [None] * len(page.keys) if self._dumps_all else replies.pop(0)
        if not isinstance(values, list):
            error = values if isinstance(values, ErrorReply) else ErrorReply("MGET answered no list")
            raise source.error_for(error, "MGET")
        expiries = take_expiries(replies, absolute=self._absolute)
        for expiry in expiries:
            if isinstance(expiry, ErrorReply):
                raise source.error_for(expiry, "PEXPIRETIME")
        if None not in values and NO_KEY not in expiries:
            everything = list(range(len(values)))
            return HalfRead(page, self._portion(page, everything, values, expiries), [], expiries)
        strings = [i for i, value in enumerate(values) if value is not None and expiries[i] != NO_KEY]
        others = [i for i, value in enumerate(values) if value is None]
        found = [values[i] for i in strings]
        return HalfRead(page, self._portion(page, strings, found, expiries), others, expiries)

    def dump_commands(self, half: HalfRead) -> bytes:
        """What reads the keys that are no strings; one reply each."""
        if self.by_type:
            return typed_commands(half.page, half.others)
        return every(b"*2\r\n$4\r\nDUMP\r\n", [half.page.arguments[i] for i in half.others])

    def take_dumps(
        self, source: Connection, half: HalfRead, payloads: Sequence[Reply], again: Standby
    ) -> Batch:
        """The replies to :meth:`dump_commands`.

        :param again: a connection on which no command is in flight, for what has to be asked once more.
        :raises ServerError: the source refused one.
        """
        there: list[int] = []
        found: list[Reply] = []
        if self.by_type:
            payloads = typed_payloads(again, half.page, half.others, payloads)
        for position, payload in zip(half.others, payloads, strict=True):
            if isinstance(payload, ErrorReply):
                raise source.error_for(payload, "DUMP")
            if payload is not None and half.expiries[position] != NO_KEY:
                there.append(position)
                found.append(payload)
        dumped = self._portion(half.page, there, found, half.expiries)
        vanished = len(half.page.keys) - len(half.strings.keys) - len(there)
        return Batch(half.page, half.strings, dumped, vanished)

    def _portion(
        self, page: Page, positions: Sequence[int], values: list[Reply], expiries: Sequence[Reply]
    ) -> Portion:
        keys = [page.keys[i] for i in positions]
        if self._rules.maps_nothing:
            names = [page.arguments[i] for i in positions]
        else:
            names = arguments_of(self._rules.rename_all(keys))
        times = cast("list[int]", [expiries[i] for i in positions])
        when = [_NEVER if time < 0 else argument(b"%d" % time) for time in times]
        return Portion(keys, cast("list[bytes]", values), names, when)


class BatchPacker:
    """Packs the commands that write a batch under one conflict policy.

    :param keeps_old: whether the target keeps the old value where RESTORE … REPLACE fails.
    """

    def __init__(self, conflict: ConflictPolicy, *, keeps_old: bool) -> None:
        skip = conflict is ConflictPolicy.SKIP
        replaces = not skip and (keeps_old or conflict is not ConflictPolicy.REPLACE)
        self._restore_head = RESTORE_REPLACE if replaces else _RESTORE
        self._restore_tail = b"\r\n" + (REPLACE_ABSTTL if replaces else _ABSTTL)

    def pack(self, batch: Batch) -> Packed:
        """All commands of a batch: the strings, their expiries, then the others."""
        strings = batch.strings
        expiring = [i for i, time in enumerate(strings.when) if time is not _NEVER]
        expiries = b"".join(
            [b"*3\r\n$9\r\nPEXPIREAT\r\n" + strings.names[i] + strings.when[i] for i in expiring]
        )
        commands = self._mset(strings) + expiries + self.restores(batch.dumped)
        return Packed(batch, expiring, commands)

    @staticmethod
    def _mset(strings: Portion) -> bytes:
        if not strings.keys:
            return b""
        parts = (strings.names, bulk_headers(strings.values), strings.values, repeat(b"\r\n"))
        head = b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(strings.keys) + 1)
        return head + b"".join(chain.from_iterable(zip(*parts, strict=False)))

    def restores(self, dumped: Portion) -> bytes:
        """The RESTOREs; built from fragments by one join, without a call per key."""
        parts: tuple[Iterable[bytes], ...] = (
            repeat(self._restore_head),
            dumped.names,
            dumped.when,
            bulk_headers(dumped.values),
            dumped.values,
            repeat(self._restore_tail),
        )
        return b"".join(chain.from_iterable(zip(*parts, strict=False)))
