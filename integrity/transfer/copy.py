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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Final, cast

from integrity.endpoint import Endpoint, Identity
from integrity.expiry import NO_KEY, Commands, expiry_commands, take_expiries
from integrity.keyspace import KeyspaceReader, Page, memory_usage_known
from integrity.kinds.pieces import PieceSize
from integrity.ledger.models import FindingClass, FindingState
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.pace import Pace
from integrity.partition import CursorRange
from integrity.replies import ErrorReply, Reply
from integrity.rules import Rules
from integrity.settings import BigValueSettings, ConflictPolicy, CopySettings
from integrity.standby import Standby
from integrity.transfer.payload import KIND_BY_RDB_TYPE, lowest_rdb_version, rdb_version, with_rdb_version
from integrity.transfer.rewrite import ENDS_THE_RUN, Rewriter
from integrity.transfer.temporary import TemporaryNames, shard_count
from integrity.wire import Connection, argument, arguments_of, bulk_headers, every

TYPED_REWRITE: Final = "typed-rewrite"
"""The rule under which what typed commands do not carry is an expected difference."""
_SET_WITH_EXPIRIES: Final = 32
"""Dragonfly's RDB type of a set whose members expire; no other server has such sets."""
_PARSES_BEFORE_REPLACING: Final = frozenset({"redis", "valkey"})
_NEVER: Final = b"$1\r\n0\r\n"
_RESTORE: Final = b"*5\r\n$7\r\nRESTORE\r\n"
_RESTORE_REPLACE: Final = b"*6\r\n$7\r\nRESTORE\r\n"
_ABSTTL: Final = b"$6\r\nABSTTL\r\n"
_REPLACE_ABSTTL: Final = b"$7\r\nREPLACE\r\n" + _ABSTTL


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
class _Sent:
    """One batch on its way to the target."""

    page: Page
    keys: list[bytes]
    payloads: list[bytes]
    names: list[bytes]
    """The keys' names on the target as RESP arguments."""
    when: list[bytes]
    """The expiries as RESP arguments."""


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
        self._rewriter: Rewriter | None = None
        self._via_temporary = (
            settings.conflict is ConflictPolicy.REPLACE
            and target_identity.engine not in _PARSES_BEFORE_REPLACING
        )
        replaces = settings.conflict is not ConflictPolicy.SKIP and not self._via_temporary
        self._restore_head = _RESTORE_REPLACE if replaces else _RESTORE
        self._restore_tail = _REPLACE_ABSTTL if replaces else _ABSTTL
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
        onto = self._rules.target_database(database)
        with (
            self._source.connect("copy", database) as source,
            self._target.connect("copy", onto) as target,
            Standby(self._source, "copy", database) as single_source,
            Standby(self._target, "copy", onto) as single_target,
        ):
            shards = shard_count(target, self._target_identity)
            self._names = TemporaryNames(self._owner, shards)
            self._rewriter = Rewriter(
                single_source,
                single_target,
                source_identity=self._source_identity,
                target_identity=self._target_identity,
                limit=self._piece,
                names=TemporaryNames(f"{self._owner}:rewrite", shards),
                keep_existing=self._settings.conflict is ConflictPolicy.SKIP,
                pace=self._pace,
            )
            sizes = (self._settings.probe_sizes or self._rules.needs_sizes) and memory_usage_known(source)
            reader = KeyspaceReader(
                source,
                keys=keys,
                cursor=state.cursor,
                pace=self._pace,
                batch_bytes=self._settings.batch_bytes,
                big_bytes=self._big_bytes if sizes else 0,
                rules=self._rules,
                read=self._read_commands,
                with_types=False,
                with_sizes=sizes,
            )
            outstanding: _Sent | None = None
            for page, replies in reader:
                batch = self._payloads(source, page, replies)
                if outstanding is not None:
                    state = self._acknowledge(target, outstanding, state)
                target.send(batch[1])
                outstanding = batch[0]
            if outstanding is not None:
                state = self._acknowledge(target, outstanding, state)
            if not state.done:
                self._on_checkpoint(replace(state, done=True))

    # -- source -------------------------------------------------------------------------------------------------

    def _read_commands(self, page: Page) -> Commands:
        expiries, count = expiry_commands(page.arguments, absolute=self._absolute)
        return every(b"*2\r\n$4\r\nDUMP\r\n", page.arguments) + expiries, len(page.keys) + count

    def _payloads(self, source: Connection, page: Page, replies: list[Reply]) -> tuple[_Sent, bytes]:
        """What a page's replies hold, and the packed commands that write it."""
        count = len(page.keys)
        expiries = take_expiries(replies[count:], absolute=self._absolute)
        del replies[count:]
        keys, names = page.keys, page.arguments
        if {*map(type, replies)} != {bytes} or {*map(type, expiries)} != {int} or NO_KEY in expiries:
            kept = [
                position
                for position, (payload, expiry) in enumerate(zip(replies, expiries, strict=True))
                if self._readable(source, payload, expiry)
            ]
            self.totals.vanished += count - len(kept)
            keys, names = [keys[i] for i in kept], [names[i] for i in kept]
            replies, expiries = [replies[i] for i in kept], [expiries[i] for i in kept]
        when = [_NEVER if expiry < 0 else argument(b"%d" % expiry) for expiry in cast("list[int]", expiries)]
        if not self._rules.maps_nothing:
            names = arguments_of(self._rules.rename_all(keys))
        sent = _Sent(page, keys, cast("list[bytes]", replies), names, when)
        return sent, self._restore_commands(sent)

    @staticmethod
    def _readable(source: Connection, payload: Reply, expiry: Reply) -> bool:
        """Whether the key was there; an error reply ends the run."""
        for reply, command in ((payload, "DUMP"), (expiry, "PEXPIRETIME")):
            if isinstance(reply, ErrorReply):
                raise source.error_for(reply, command)
        return isinstance(payload, bytes) and isinstance(expiry, int) and expiry != NO_KEY

    def _restore_commands(self, sent: _Sent) -> bytes:
        """The packed commands that write a batch; built from fragments by one join, without a call per key."""
        parts: tuple[Iterable[bytes], ...] = (
            repeat(self._restore_head),
            sent.names,
            sent.when,
            bulk_headers(sent.payloads),
            sent.payloads,
            repeat(b"\r\n" + self._restore_tail),
        )
        return b"".join(chain.from_iterable(zip(*parts, strict=False)))

    # -- target -------------------------------------------------------------------------------------------------

    def _acknowledge(self, target: Connection, sent: _Sent, state: CheckpointState) -> CheckpointState:
        """Take in the target's answers to one batch, and move the checkpoint."""
        replies = target.receive_many(len(sent.keys))
        self._relabel_refused(target, sent, replies)
        if self._via_temporary:
            self._replace_busy(target, sent, replies)
        findings: list[NewFinding] = []
        database, payloads = state.database, sent.payloads
        if replies.count(b"OK") != len(replies):
            payloads = []
            for key, payload, reply in zip(sent.keys, sent.payloads, replies, strict=True):
                if isinstance(reply, ErrorReply):
                    findings += self._not_restored(target, database, key, payload, reply)
                else:
                    payloads.append(payload)
        page = sent.page
        rewritten = 0
        for big in page.big:
            found, size = self._rewrite(database, big.key, big.size)
            findings += found
            rewritten += size
        written, size = len(payloads), sum(map(len, payloads))
        self._tally(database, payloads)
        self.totals.written += written
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

    def _tally(self, database: int, payloads: list[bytes]) -> None:
        """Count payloads by kind, which their first byte tells."""
        by_type: dict[int, list[int]] = {}
        for payload in payloads:
            if payload[0] in by_type:
                by_type[payload[0]].append(len(payload))
            else:
                by_type[payload[0]] = [len(payload)]
        for rdb_type, sizes in by_type.items():
            place = (database, KIND_BY_RDB_TYPE[rdb_type])
            keys, total = self.totals.tallies.get(place, (0, 0))
            self.totals.tallies[place] = (keys + len(sizes), total + sum(sizes))

    def _not_restored(
        self, target: Connection, database: int, key: bytes, payload: bytes, reply: ErrorReply
    ) -> list[NewFinding]:
        """What becomes of a key whose payload the target did not take.

        :raises ServerError: the refusal is about the server, not the key, and every further key would meet it.
        """
        if str(reply).startswith("BUSYKEY"):
            self.totals.skipped += 1
            return [self._kept(database, key, KIND_BY_RDB_TYPE[payload[0]])]
        error = target.error_for(reply, "RESTORE")
        if isinstance(error, ENDS_THE_RUN):
            raise error
        refusal = f"the target refused the payload (RDB type {payload[0]}): {reply}"
        return self._rewrite(database, key, 0, because=refusal, rdb_type=payload[0])[0]

    def _rewrite(
        self, database: int, key: bytes, size: int, *, because: str = "", rdb_type: int | None = None
    ) -> tuple[list[NewFinding], int]:
        """Copy one key with typed commands; returns what is to be recorded, and the bytes that were written."""
        if self._rewriter is None:
            raise RuntimeError("no range is being copied")
        self._tell_temporary()
        done = self._rewriter.rewrite(key, self._rules.rename(key), size)
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
        lost = done.lost + (("the expiries of its members",) if rdb_type == _SET_WITH_EXPIRIES else ())
        if not lost:
            return [], done.size
        detail = f"written with typed commands, which do not carry {', '.join(lost)}"
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

    def _relabel_refused(self, target: Connection, sent: _Sent, replies: list[Reply]) -> None:
        """Try payloads once more that the target refused for their RDB version alone.

        A newer server writes the same body under a newer version (Valkey 9 writes 80, Redis 8.6 writes 13).  Where the
        type byte is one that older servers know, the body goes again under the oldest version that has it; whether it
        arrived as the same value is for the verification to say, as for every key.
        """
        again: list[int] = []
        payloads: list[bytes] = []
        for position, reply in enumerate(replies):
            if isinstance(reply, ErrorReply) and "version or checksum" in str(reply):
                payload = sent.payloads[position]
                version = lowest_rdb_version(payload[0])
                if version is not None and version < rdb_version(payload):
                    again.append(position)
                    payloads.append(with_rdb_version(payload, version))
        if not again:
            return
        for position, payload in zip(again, payloads, strict=True):
            sent.payloads[position] = payload
        part = _Sent(
            sent.page,
            [sent.keys[i] for i in again],
            payloads,
            [sent.names[i] for i in again],
            [sent.when[i] for i in again],
        )
        target.send(self._restore_commands(part))
        for position, reply in zip(again, target.receive_many(len(again)), strict=True):
            replies[position] = reply
            self.totals.relabelled += reply == b"OK"

    def _replace_busy(self, target: Connection, sent: _Sent, replies: list[Reply]) -> None:
        """Replace the keys that were there already, through temporary ones; puts the outcome into *replies*."""
        busy = [
            n for n, r in enumerate(replies) if isinstance(r, ErrorReply) and str(r).startswith("BUSYKEY")
        ]
        if not busy:
            return
        self._tell_temporary()
        commands: list[bytes] = []
        used: list[bytes] = []
        for slot, position in enumerate(busy):
            final = self._rules.rename(sent.keys[position])
            used.append(self._names.name(slot, final))
            temporary = argument(used[-1])
            payload = argument(sent.payloads[position])
            commands += (_RESTORE_REPLACE, temporary, sent.when[position], payload, _REPLACE_ABSTTL)
            commands += (b"*3\r\n$6\r\nRENAME\r\n", temporary, sent.names[position])
        target.send(b"".join(commands))
        pairs = iter(target.receive_many(2 * len(busy)))
        gone: list[bytes] = []
        for position, restored, renamed in zip(busy, pairs, pairs, strict=True):
            replies[position] = restored
            if not isinstance(restored, ErrorReply) and isinstance(renamed, ErrorReply):
                # A payload whose expiry has passed is accepted but leaves nothing to rename: the source no longer has
                # the key either, so the old value goes.
                if "no such key" in str(renamed).lower():
                    gone.append(self._rules.rename(sent.keys[position]))
                else:
                    replies[position] = renamed
        # A temporary key that stayed would be renamed onto another key by a later batch.
        target.command(b"DEL", *used, *gone)
