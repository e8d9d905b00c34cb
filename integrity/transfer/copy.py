"""Copy: DUMP and absolute expiry from the source, RESTORE on the target, both busy at the same time.

One batch's payloads go to the target while the next batch's arrive from the source.  A batch counts only when the
target has acknowledged every key of it; only then does its checkpoint move, so a process that dies repeats at most
the batches in flight, and repeating one is harmless because each write replaces the whole key.

How a key is written depends on what a failure would destroy:

* target checked empty (policy ``fail``), or Redis and Valkey: ``RESTORE … REPLACE``; they parse before they replace.
* policy ``skip``: ``RESTORE`` without REPLACE; BUSYKEY leaves the target's value and records the key as skipped.
* policy ``replace`` on any other engine: ``RESTORE`` without REPLACE; a key that answers BUSYKEY goes to a temporary
  key, then RENAME.  Dragonfly deletes the old value *before* it parses the new one, and does not bring it back.  Only
  keys that are there already pay for the detour, which doubles their cost (:mod:`integrity.transfer.temporary`).

A payload that the target refuses, and a value that is too large to be dumped, goes to
:mod:`integrity.transfer.rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.expiry import clock_ms
from integrity.keyspace import KeyspaceReader, memory_usage_known
from integrity.kinds.pieces import PieceSize
from integrity.ledger.models import FindingClass, FindingState
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.pace import Pace
from integrity.partition import CursorRange
from integrity.replies import ErrorReply, Reply
from integrity.rules import Rules
from integrity.settings import BigValueSettings, ConflictPolicy, CopySettings
from integrity.sizes import asks_lengths_first, find_large_keys
from integrity.standby import Standby
from integrity.transfer.batch import (
    BatchPacker,
    BatchReader,
    HalfRead,
    Packed,
    Portion,
)
from integrity.transfer.payload import KIND_BY_RDB_TYPE, for_older_server
from integrity.transfer.place import Busy, busy_positions, replace_busy
from integrity.transfer.rewrite import ENDS_THE_RUN, Rewriter
from integrity.transfer.temporary import TemporaryNames, places_of
from integrity.transfer.typed_reads import dumps_slowly
from integrity.wire import Connection, argument

TYPED_REWRITE: Final = "typed-rewrite"
"""The rule under which what typed commands do not carry is an expected difference."""


@dataclass(slots=True)
class CopyTotals:
    """What one copy did, growing while it runs."""

    written: int = 0
    skipped: int = 0
    refused: int = 0
    relabelled: int = 0
    """Keys whose payload the target took only under an older RDB version."""
    rewritten: int = 0
    """Keys that were written with typed commands, in pieces."""
    big: int = 0
    """Keys that were too large to be read whole."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Rule → keys that it left out."""
    vanished: int = 0
    """Keys that expired or were deleted on the source between SCAN and DUMP."""
    untold: int = 0
    """Of the written ones, those of which a killed process could not say of which kind they are."""
    batches: int = 0
    size: int = 0
    """Payload bytes."""
    tallies: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    """(database, kind) → keys, bytes."""

    def merge(self, other: CopyTotals) -> None:
        """Count in what another worker, or an earlier attempt, did."""
        self.written += other.written
        self.skipped += other.skipped
        self.refused += other.refused
        self.relabelled += other.relabelled
        self.rewritten += other.rewritten
        self.big += other.big
        self.vanished += other.vanished
        self.batches += other.batches
        self.size += other.size
        for rule, count in other.excluded.items():
            self.excluded[rule] = self.excluded.get(rule, 0) + count
        for place, (keys, size) in other.tallies.items():
            have, bytes_ = self.tallies.get(place, (0, 0))
            self.tallies[place] = (have + keys, bytes_ + size)


@dataclass(frozen=True, slots=True)
class Lines:
    """The connections over which one database is copied."""

    database: int
    """Of the source."""
    source: Connection
    dumps: Connection
    """To the source too: what is no string is asked for here while the next page is being read."""
    again: Standby
    """To the source as well, for what has to be asked once more."""
    target: Connection
    sizes: bool
    """Whether the source tells how much memory a key uses, and is asked."""
    known_sizes: Mapping[bytes, int] | None
    """The memory use of every key that is not small, where asking for each key's is dear."""


@dataclass(frozen=True, slots=True)
class KeysCopied:
    """What became of keys that were copied by name."""

    gone: list[bytes]
    """The source does not have them; nothing was done about them."""
    streams: list[bytes]
    """Those that are streams, and those that are too big to tell."""
    size: int
    """Bytes that were written."""


class Copier:
    """Copies databases, one after the other, over one connection to each side.

    :param owner: tells this copier's temporary keys from those of any other: the run's id, and the worker's number.
    :param rules: which keys are copied, to which database and under which name.
    :param pace: asked before every page.
    :param totals: where to count; a resumed run hands over what it counted before.
    :param on_checkpoint: told after every acknowledged SCAN page.
    :param on_findings: told of keys that were refused or skipped.
    :param on_progress: told keys and bytes as they are acknowledged.
    :param on_temporary: told before the first temporary key is written, so that whoever cleans up knows of it.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        source_identity: Identity,
        target_identity: Identity,
        settings: CopySettings,
        big_values: BigValueSettings,
        *,
        owner: str,
        rules: Rules,
        pace: Pace,
        totals: CopyTotals,
        on_checkpoint: Callable[[CheckpointState], None],
        on_findings: Callable[[list[NewFinding]], None],
        on_progress: Callable[[int, int], None],
        on_temporary: Callable[[], None],
    ) -> None:
        self._source = source
        self._target = target
        self._source_identity = source_identity
        self._target_identity = target_identity
        self._absolute = source_identity.has_pexpiretime
        self._settings = settings
        self._big_bytes = big_values.threshold_bytes
        self._piece = PieceSize(big_values.piece_bytes, big_values.piece_elements)
        self._rules = rules
        self._pace = pace
        self._owner = owner
        self._names = TemporaryNames(owner)
        self._rewriters: dict[int, Rewriter] = {}
        """By database; of those that were opened."""
        self._via_temporary = (
            settings.conflict is ConflictPolicy.REPLACE and not target_identity.parses_before_replacing
        )
        self._reader = BatchReader(
            rules,
            absolute=self._absolute,
            dumps_all=settings.conflict is ConflictPolicy.SKIP,
            by_type=dumps_slowly(source_identity, target_identity),
        )
        self._packer = BatchPacker(settings.conflict, keeps_old=not self._via_temporary)
        self._on_checkpoint = on_checkpoint
        self._on_findings = on_findings
        self._on_progress = on_progress
        self._on_temporary = on_temporary
        self._told_temporary = False
        self.totals = totals

    def copy_range(self, database: int, keys: CursorRange, start: CheckpointState | None = None) -> None:
        """Copy the keys of one range of one database, or those after the checkpoint *start*.

        :raises ServerError: a server is lost, full, read-only or refuses; everything acknowledged is checkpointed.
        """
        state = start or CheckpointState(
            database, keys.start, 0, 0, 0, done=False, range_index=keys.index, range_count=keys.count
        )
        with self.opened(database) as lines:
            source, dumps, target = lines.source, lines.dumps, lines.target
            reader = self._keyspace(lines, keys, state.cursor)
            half: HalfRead | None = None
            outstanding: Packed | None = None
            for page, replies in reader:
                arrived = self._reader.take_strings(source, page, replies)
                dumps.send(self._reader.dump_commands(arrived))
                if half is not None:
                    packed = self._complete(lines, half)
                    if outstanding is not None:
                        state = self._acknowledge(target, outstanding, state)
                    target.send(packed.commands)
                    outstanding = packed
                half = arrived
            if half is not None:
                packed = self._complete(lines, half)
                if outstanding is not None:
                    state = self._acknowledge(target, outstanding, state)
                target.send(packed.commands)
                state = self._acknowledge(target, packed, state)
            if not state.done:
                self._on_checkpoint(replace(state, done=True))

    def copy_keys(self, lines: Lines, keys: Sequence[bytes]) -> KeysCopied:
        """Copy keys of one database that are known by name, as they are now; nothing is checkpointed.

        :param lines: from :meth:`opened`.
        :raises ServerError: a server is lost, full, read-only or refuses.
        """
        gone: list[bytes] = []
        streams: list[bytes] = []
        size = self.totals.size
        for page in self._keyspace(lines, CursorRange(), None).pages_of(keys):
            commands, count = self._reader.commands(page)
            lines.source.send(commands)
            half = self._reader.take_strings(lines.source, page, lines.source.receive_many(count))
            lines.dumps.send(self._reader.dump_commands(half))
            packed = self._complete(lines, half)
            lines.target.send(packed.commands)
            dumped = packed.batch.dumped
            streams += [
                key
                for key, payload in zip(dumped.keys, dumped.values, strict=True)
                if KIND_BY_RDB_TYPE[payload[0]] == "stream"
            ]
            self._acknowledge(lines.target, packed, CheckpointState(lines.database, 0, 0, 0, 0, done=False))
            there = {*packed.batch.strings.keys, *dumped.keys}
            gone += [key for key in page.keys if key not in there]
            # Nobody knows yet whether a big one is a stream; whoever asks finds out.
            streams += [big.key for big in page.big]
        return KeysCopied(gone, streams, self.totals.size - size)

    @contextmanager
    def opened(self, database: int) -> Iterator[Lines]:
        """The connections that copying one database of the source takes.

        :raises ServerError: a server cannot be reached.
        """
        onto = self._rules.target_database(database)
        with (
            self._source.connect("copy", database) as source,
            self._source.connect("copy", database) as dumps,
            self._target.connect("copy", onto) as target,
            Standby(self._source, "copy", database) as single_source,
            Standby(self._target, "copy", onto) as single_target,
        ):
            places = places_of(target, self._target_identity)
            self._names = TemporaryNames(self._owner, places)
            rewriter = Rewriter(
                single_source,
                single_target,
                source_identity=self._source_identity,
                target_identity=self._target_identity,
                limit=self._piece,
                names=TemporaryNames(f"{self._owner}:rewrite", places),
                keep_existing=self._settings.conflict is ConflictPolicy.SKIP,
                pace=self._pace,
            )
            self._rewriters[database] = rewriter
            sizes = (self._settings.probe_sizes or self._rules.needs_sizes) and memory_usage_known(source)
            known = None
            if sizes and asks_lengths_first(self._source_identity.engine):
                known = find_large_keys(source, self._big_bytes)
            yield Lines(database, source, dumps, single_source, target, sizes, known)

    def _keyspace(self, lines: Lines, keys: CursorRange, cursor: int | None) -> KeyspaceReader:
        return KeyspaceReader(
            lines.source,
            keys=keys,
            cursor=cursor,
            pace=self._pace,
            batch_bytes=self._settings.batch_bytes,
            big_bytes=self._big_bytes if lines.sizes else 0,
            rules=self._rules,
            read=self._reader.commands,
            with_types=self._reader.by_type or lines.known_sizes is not None,
            with_sizes=lines.sizes,
            known_sizes=lines.known_sizes,
        )

    def _complete(self, lines: Lines, half: HalfRead) -> Packed:
        replies = lines.dumps.receive_many(len(half.others))
        batch = self._reader.take_dumps(lines.dumps, half, replies, lines.again)
        self.totals.vanished += batch.vanished
        return self._packer.pack(batch)

    # -- target -------------------------------------------------------------------------------------------------

    def _acknowledge(self, target: Connection, packed: Packed, state: CheckpointState) -> CheckpointState:
        """Take in the target's answers to one batch, and move the checkpoint."""
        strings, dumped, page = packed.batch.strings, packed.batch.dumped, packed.batch.page
        stored = target.receive() if strings.keys else b"OK"
        expired = target.receive_many(len(packed.expiring))
        replies = target.receive_many(len(dumped.keys))
        findings: list[NewFinding] = []
        database, values, payloads = state.database, strings.values, dumped.values
        rewritten = 0
        if stored != b"OK":
            findings += self._not_stored(target, database, strings.keys, stored)
            values = []
        elif any(isinstance(reply, ErrorReply) for reply in expired):
            self._expire_late(target, strings, packed.expiring, expired)
        self._relabel_refused(target, dumped, replies)
        if self._via_temporary:
            self._replace_busy(target, dumped, replies)
        if replies.count(b"OK") != len(replies):
            payloads = []
            for key, payload, reply in zip(dumped.keys, dumped.values, replies, strict=True):
                if isinstance(reply, ErrorReply):
                    found, size = self._not_restored(target, database, key, payload, reply)
                    findings += found
                    rewritten += size
                else:
                    payloads.append(payload)
        for big in page.big:
            found, size = self._rewrite(database, big.key, big.size)
            findings += found
            rewritten += size
        size = self._tally(database, values, payloads)
        self.totals.written += len(values) + len(payloads)
        self.totals.size += size
        self.totals.batches += 1
        self.totals.big += len(page.big)
        for rule, count in page.excluded.items():
            self.totals.excluded[rule] = self.totals.excluded.get(rule, 0) + count
        if findings:
            self._on_findings(findings)
        state = replace(
            state,
            cursor=page.cursor if page.completes else state.cursor,
            batches=state.batches + 1,
            keys=state.keys + page.count,
            bytes=state.bytes + size + rewritten,
            done=page.last,
        )
        if page.completes:
            self._on_checkpoint(state)
        self._on_progress(page.count, size + rewritten)
        return state

    def _tally(self, database: int, values: list[bytes], payloads: list[bytes]) -> int:
        """Count what was written by kind, which a payload's first byte tells; returns the bytes."""
        by_kind: dict[str, list[int]] = {"string": list(map(len, values))} if values else {}
        for payload in payloads:
            kind = KIND_BY_RDB_TYPE[payload[0]]
            if kind in by_kind:
                by_kind[kind].append(len(payload))
            else:
                by_kind[kind] = [len(payload)]
        size = 0
        for kind, sizes in by_kind.items():
            keys, total = self.totals.tallies.get((database, kind), (0, 0))
            self.totals.tallies[database, kind] = (keys + len(sizes), total + sum(sizes))
            size += sum(sizes)
        return size

    def _not_stored(
        self, target: Connection, database: int, keys: list[bytes], reply: Reply
    ) -> list[NewFinding]:
        """What becomes of strings that the target did not take together: each is tried alone.

        :raises ServerError: the refusal is about the server, not one of the keys.
        """
        error = target.error_for(reply if isinstance(reply, ErrorReply) else ErrorReply("no OK"), "MSET")
        if isinstance(error, ENDS_THE_RUN):
            raise error
        because = f"the target refused the strings of a batch: {error.problem}"
        return [finding for key in keys for finding in self._rewrite(database, key, 0, because=because)[0]]

    @staticmethod
    def _expire_late(target: Connection, strings: Portion, expiring: list[int], replies: list[Reply]) -> None:
        """Give the longest expiry that the target has to those beyond its limit (Dragonfly's is 8.5 years).

        :raises ServerError: the target refuses an expiry for another reason.
        """
        late: list[int] = []
        for position, reply in zip(expiring, replies, strict=True):
            if isinstance(reply, ErrorReply):
                if "out of range" not in str(reply).lower():
                    raise target.error_for(reply, "PEXPIREAT")
                late.append(position)
        now = clock_ms(target.command(b"TIME"))
        target.send(
            b"".join(
                b"*3\r\n$7\r\nPEXPIRE\r\n"
                + strings.names[i]
                + argument(b"%d" % (int(strings.when[i].split(b"\r\n")[1]) - now))
                for i in late
            )
        )
        for reply in target.receive_many(len(late)):
            if isinstance(reply, ErrorReply):
                raise target.error_for(reply, "PEXPIRE")

    def _not_restored(
        self, target: Connection, database: int, key: bytes, payload: bytes, reply: ErrorReply
    ) -> tuple[list[NewFinding], int]:
        """What becomes of a key whose payload the target did not take.

        :raises ServerError: the refusal is about the server, not the key, and every further key would meet it.
        """
        if str(reply).startswith("BUSYKEY"):
            self.totals.skipped += 1
            return [self._kept(database, key, KIND_BY_RDB_TYPE[payload[0]])], 0
        error = target.error_for(reply, "RESTORE")
        if isinstance(error, ENDS_THE_RUN):
            raise error
        refusal = f"the target refused the payload (RDB type {payload[0]}): {reply}"
        return self._rewrite(database, key, 0, because=refusal)

    def _rewrite(
        self, database: int, key: bytes, size: int, *, because: str = ""
    ) -> tuple[list[NewFinding], int]:
        """Copy one key with typed commands; returns what is to be recorded, and the bytes that were written."""
        self._tell_temporary()
        done = self._rewriters[database].rewrite(key, self._rules.rename(key), size)
        totals = self.totals

        def finding(finding_class: FindingClass, detail: str, rule: str | None = None) -> NewFinding:
            return NewFinding(
                finding_class,
                database,
                key,
                source_kind=done.kind,
                source_size=done.size or None,
                detail=detail,
                state=FindingState.EXCEPTION if rule else FindingState.OPEN,
                rule=rule,
            )

        match done.outcome:
            case "vanished":
                totals.vanished += 1
                return [], 0
            case "kept":
                totals.skipped += 1
                return [self._kept(database, key, done.kind)], 0
            case "refused" | "unreadable":
                totals.refused += 1
                detail = "; ".join(part for part in (because, done.detail) if part)
                return [finding(FindingClass.REFUSED, detail or "not written")], 0
        totals.written += 1
        totals.size += done.size
        totals.rewritten += 1
        keys, total = totals.tallies.get((database, done.kind), (0, 0))
        totals.tallies[database, done.kind] = (keys + 1, total + done.size)
        if not done.lost:
            return [], done.size
        detail = f"written with typed commands, which do not carry {', '.join(done.lost)}"
        return [finding(FindingClass.NOT_CARRIED, detail, TYPED_REWRITE)], done.size

    def _tell_temporary(self) -> None:
        if not self._told_temporary:
            self._told_temporary = True
            self._on_temporary()

    @staticmethod
    def _kept(database: int, key: bytes, kind: str) -> NewFinding:
        return NewFinding(
            FindingClass.SKIPPED,
            database,
            key,
            source_kind=kind,
            detail="the target had this key already; its value was kept by the rule conflict=skip",
            state=FindingState.EXCEPTION,
            rule="copy.conflict=skip",
        )

    def _relabel_refused(self, target: Connection, sent: Portion, replies: list[Reply]) -> None:
        """Try payloads once more that the target refused for their RDB version alone."""
        if replies.count(b"OK") == len(replies):
            return
        again: list[int] = []
        for position, reply in enumerate(replies):
            payload = for_older_server(sent.values[position], reply)
            if payload is not None:
                again.append(position)
                sent.values[position] = payload
        if not again:
            return
        part = sent.only(again)
        target.send(self._packer.restores(part))
        for position, reply in zip(again, target.receive_many(len(again)), strict=True):
            replies[position] = reply
            self.totals.relabelled += reply == b"OK"

    def _replace_busy(self, target: Connection, sent: Portion, replies: list[Reply]) -> None:
        """Replace the keys that were there already, through temporary ones; puts the outcome into *replies*."""
        busy = [
            Busy(n, self._rules.rename(sent.keys[n]), sent.values[n], sent.when[n])
            for n in busy_positions(replies)
        ]
        if busy:
            self._tell_temporary()
            replace_busy(target, self._names, busy, replies)
