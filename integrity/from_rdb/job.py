"""A run whose source is an RDB file: check, index, load, verify.

The file is only read, and stays where it is.  It is read whole, its end and CRC-64 proved and every value decoded,
before the first write; a file that is damaged costs nothing but that reading.  What is loaded is what the index knows,
key by key, and every key is read back from the target at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.from_rdb.bodies import Bodies
from integrity.from_rdb.compare import FileComparer
from integrity.from_rdb.places import Places
from integrity.from_rdb.source_file import SourceFile
from integrity.kinds.pieces import PieceSize
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.meter import Meter
from integrity.migration import Run
from integrity.phases.leftovers import TEMPORARY_KEYS
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import ConflictPolicy, Settings
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.folder import PartialFolder
from integrity.snapshot.foreign import ForeignIndexer, header_of, publish
from integrity.snapshot.header import AS_THE_FILE
from integrity.snapshot.restore import Restorer, Selection, require_databases, require_empty
from integrity.snapshot.sealing import read_recipients
from integrity.snapshot.totals import OddKey, RestoreTotals
from integrity.transfer.copy import TYPED_REWRITE
from integrity.transfer.temporary import remove_leftovers
from integrity.transfer.throttle import Throttle
from integrity.verify.exceptions import FindingRules
from integrity.verify.look import BigValues
from integrity.verify.verdict import Conclusion, Coverage, conclude

RDB_ARTIFACT: Final = "rdb-file"
"""The kind under which the ledger knows the file, by its SHA-256."""


class FileJob:
    """The phases of one run; each is called once, in order.

    :param run: of the kind ``migrate``.
    :param path: the RDB file.
    """

    def __init__(self, run: Run, path: Path, progress: Progress) -> None:
        self._run = run
        self._settings: Settings = run.settings
        self._path = path
        self._progress = progress
        self._rules = Rules.of(run.settings.rules)
        self._directory = run.settings.snapshot_dir / run.id
        self._target = Endpoint.from_settings("target", run.settings.target)
        self._file: SourceFile
        self._identity: Identity
        self._artifact: Artifact
        self._without: set[int] = set()
        self._start = 0
        self._told_temporary = False

    # -- check --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at the file's beginning and at the target, and refuse what cannot go well; nothing is written.

        :raises ArtifactError: the file cannot be read, or is none.
        :raises Refused: the target holds keys against the policy.
        :raises ServerError: the target is not reachable, not writable, or refuses.
        """
        run = self._run
        with run.phase(PhaseName.CHECK) as detail:
            self._require_honoured()
            file = self._file = SourceFile.look_at(self._path)
            identity = self._identity = self._target.identify()
            self._target.require_writable()
            if run.resumed is None and self._settings.copying.conflict is ConflictPolicy.FAIL:
                require_empty(self._target, identity, self._remedy())
            self._identify(file.to_dict())
            detail["file"] = str(file.path)
            detail["rdb_version"] = file.rdb_version
            detail["rules"] = self._rules.describe()
            detail["conflict"] = self._settings.copying.conflict.value

    def _require_honoured(self) -> None:
        """Refuse what a file cannot honour."""
        if self._rules.needs_sizes:
            raise ConfigurationError(
                "An RDB file does not tell how much memory a key uses, which the rules ask for.",
                "Leave min_bytes and max_bytes out.",
            )
        if self._settings.replica.url is not None:
            raise ConfigurationError("A file has no replica.", "Leave --replica out.")

    def _remedy(self) -> str | None:
        earlier = self._run.ledger.unfinished_copy(
            f"file:{self._path.name}", str(self._target), self._run.kind
        )
        if earlier is None:
            return None
        return (
            f"Run {earlier.id} began to load this file here and did not finish, so they are probably its keys: go on "
            "with --resume."
        )

    def _identify(self, source: dict[str, object]) -> None:
        self._run.handle.identify(
            source=source,
            target=self._identity.to_dict(),
            source_address=self._file.name,
            target_address=str(self._target),
        )

    # -- index --------------------------------------------------------------------------------------------------

    def index(self) -> None:
        """Read the whole file, prove it, and write a manifest of every key into the run's snapshot folder.

        :raises RdbDamaged: it is cut off, changed, or holds a key twice.
        :raises RdbUnsupported: it holds something that is not known.
        :raises Refused: a run that is resumed began with another file, or the target lacks a database.
        :raises LedgerError: the folder cannot be written.
        """
        run = self._run
        announced = self._file.size
        with run.phase(PhaseName.SNAPSHOT) as detail:
            meter = Meter(run.handle, PhaseName.SNAPSHOT, self._progress)
            try:
                artifact = self._artifact = self._index(meter)
            except OSError as error:
                raise LedgerError(
                    f"The snapshot folder {self._directory} cannot be written ({error.strerror or error}).",
                    "Free disk space or set snapshot.directory to another place.",
                ) from error
            header = artifact.header
            databases = {number: entry.keys for number, entry in header.databases.items()}
            entry = header.plain_files()["dump.rdb"]
            if run.resumed is not None:
                self._require_same(run.resumed.source or {}, entry.xxh3_128)
            self._identify(self._file.to_dict(databases, entry.xxh3_128))
            foreign = header.foreign
            detail.update(
                meter.finish()
                | {
                    "keys": header.keys,
                    "bytes": meter.size,
                    "directory": str(artifact.directory),
                    "method": "file",
                    "rdb_version": header.rdb_version,
                    "rdb_bytes": announced,
                    "uncompared": header.without_digest,
                    "functions": list(foreign.functions) if foreign else [],
                    "module_data": list(foreign.module_data) if foreign else [],
                    "fingerprints": {str(n): e.fingerprint or "" for n, e in header.databases.items()},
                }
            )
            require_databases(
                self._target, self._rules.target_databases([n for n in self._databases() if databases[n]])
            )
            self._say_what_stays()

    def _index(self, meter: Meter) -> Artifact:
        run, started = self._run, datetime.now(UTC)
        recipients = read_recipients(self._settings.snapshot.encrypt_to)
        with PartialFolder(self._directory, recipients) as folder:
            indexer = ForeignIndexer(
                folder,
                self._file.path,
                as_of_ms=int(started.timestamp() * 1000),
                on_progress=meter.advance,
            )
            indexed = indexer.index()
            facts = indexed.facts.model_copy(update={"path": str(self._file.path)})
            databases = {number: entry.keys for number, entry in indexed.totals.databases().items()}
            header = header_of(
                folder,
                indexed,
                facts=facts,
                source=self._file.to_dict(databases, indexed.rdb.xxh3_128),
                consistency=AS_THE_FILE,
                started_at=started,
                sealed_rdb=None,
            )
            snapshot = publish(folder, header, indexed)
        run.handle.tally(PhaseName.SNAPSHOT, indexed.totals.tallies)
        for name, path in (
            (RDB_ARTIFACT, snapshot.rdb),
            ("manifest", snapshot.manifest),
            ("header", snapshot.header),
            ("seal", snapshot.seal),
        ):
            if path is not None:
                run.ledger.add_artifact(run.id, name, path)
        return Artifact(self._directory, header, folder.keys)

    def _require_same(self, before: dict[str, object], xxh3: str) -> None:
        known = before.get("run_id")
        if known and known != xxh3:
            raise Refused(
                f"{self._file.path} is another file than the one that run {self._run.id} began to load.",
                "Name that one, or start a new run without --resume (--conflict replace overwrites).",
            )

    def _databases(self) -> Sequence[int]:
        """Those of the file that the run is about."""
        found = sorted(self._artifact.header.databases)
        wanted = self._settings.databases
        return found if wanted is None else [number for number in found if number in wanted]

    def _say_what_stays(self) -> None:
        foreign = self._artifact.header.foreign
        if foreign is None:
            return
        if foreign.functions:
            names = ", ".join(foreign.functions)
            self._progress.say(f"The file holds function libraries, which are not loaded: {names}.")
        if foreign.module_data:
            names = ", ".join(foreign.module_data)
            self._progress.say(
                f"The file holds data of modules beside its keys, which is not loaded: {names}."
            )
        if not foreign.checksum:
            self._progress.say("The file has no checksum: only its structure could be proved.")

    # -- load ---------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Write every key that the run is about to the target.

        :raises Refused: the target has less memory free than the bodies need.
        :raises ServerError: the target is lost, full, read-only or refuses; what was acknowledged is checkpointed.
        :raises ArtifactError: the file was changed since it was indexed.
        """
        run, header = self._run, self._artifact.header
        self._start = self._begin_at()
        expected = sum(header.databases[number].keys for number in self._databases())
        with run.phase(PhaseName.STREAM, expected) as detail:
            self._require_headroom()
            self._without = self._colliding()
            meter = Meter(run.handle, PhaseName.STREAM, self._progress)
            policy = self._settings.copying.conflict
            if run.resumed is not None and policy is ConflictPolicy.FAIL:
                # The target was empty when the run began: what is there now, it wrote itself.
                policy = ConflictPolicy.REPLACE
            odd: list[OddKey] = []
            with Throttle(
                self._settings.throttle,
                self._settings.copying.batch_keys,
                endpoints=[self._target],
                run=run.handle,
                progress=self._progress,
            ) as pace:
                restorer = Restorer(
                    self._artifact,
                    self._target,
                    self._identity,
                    conflict=policy,
                    selection=self._selection(),
                    batch_keys=self._settings.copying.batch_keys,
                    big_values=self._settings.big_values,
                    owner=run.id,
                    start=self._start,
                    incomplete=True,
                    pace=pace,
                    on_progress=meter.advance,
                    on_acknowledged=lambda row: self._acknowledged(row, odd, meter),
                    on_odd=odd.append,
                    on_temporary=self._tell_temporary,
                )
                try:
                    restorer.restore()
                finally:
                    # Also for a load that broke off: the ledger tells what reached the target.
                    run.handle.tally(PhaseName.STREAM, restorer.totals.tallies)
                    detail.update(meter.finish() | _figures(restorer.totals, self._start))
                    detail["throttle"] = pace.summary()

    def _begin_at(self) -> int:
        """The first row that is not on the target yet; 0 for a new run."""
        run = self._run
        if run.resumed is None:
            return 0
        for database in self._identity.databases:
            with self._target.connect("restore", database) as connection:
                remove_leftovers(connection, [run.id])
        rows = run.ledger.checkpoints(run.id, PhaseName.STREAM)
        before = (run.resumed.target or {}).get("run_id")
        if before != self._identity.run_id:
            text = f"target {self._target} restarted since: the file is loaded from its beginning."
            self._progress.say(text)
            run.handle.event("ranges.restarted", {"reason": text})
            run.handle.clear_checkpoints(PhaseName.STREAM)
            return 0
        return max((row.state.cursor for row in rows), default=0)

    def _require_headroom(self) -> None:
        """Refuse a target that cannot hold the bodies, and say where it may not hold the values."""
        identity = self._identity
        if not identity.max_memory:
            return
        free = max(0, identity.max_memory - identity.used_memory)
        selection = self._selection()
        needed = 0
        with self._artifact.open_manifest() as manifest:
            for number, row in enumerate(manifest):
                if number >= self._start and selection.wants(number, row):
                    needed += row.length
        if needed > free and self._settings.copying.conflict is not ConflictPolicy.REPLACE:
            raise Refused(
                f"Target {self._target} has {free:,} bytes free, and the values need {needed:,} bytes even as they lie "
                "in the file.",
                "Raise its maxmemory, or leave keys out.",
            )
        if self._file.used_memory > free:
            self._progress.say(
                f"The server that wrote the file used {self._file.used_memory:,} bytes; target {self._target} has "
                f"{free:,} free. If it runs full, the run breaks off and goes on with --resume."
            )

    def _colliding(self) -> set[int]:
        if not self._rules.merges_over(self._databases()):
            return set()
        with Places(self._rules) as places, self._artifact.open_manifest() as manifest:
            places.note(manifest)
            return places.shared(manifest)

    def _selection(self) -> Selection:
        wanted = self._settings.databases
        return Selection(frozenset(wanted) if wanted is not None else None, self._rules, self._without)

    def _acknowledged(self, row: int, odd: list[OddKey], meter: Meter) -> None:
        """Record what became of the rows before *row*: findings first, then the checkpoint."""
        run = self._run
        if odd:
            run.handle.add_findings(PhaseName.STREAM, [_finding(each) for each in odd])
            odd.clear()
        done = row >= self._artifact.header.keys
        state = CheckpointState(0, row, 0, meter.keys, meter.size, done=done)
        run.handle.checkpoint(
            PhaseName.STREAM, self._artifact.header.plain_files()["dump.rdb"].xxh3_128, state
        )

    def _tell_temporary(self) -> None:
        if not self._told_temporary:
            self._told_temporary = True
            self._run.handle.event(TEMPORARY_KEYS, {})

    # -- verify -------------------------------------------------------------------------------------------------

    def verify(self) -> Conclusion:
        """Read every key back from the target, compare it with the file, look for others, and conclude.

        :raises ServerError: the target is lost or refuses; the verdict is INCONCLUSIVE.
        """
        run, header, settings = self._run, self._artifact.header, self._settings
        databases = self._databases()
        identity = self._target.identify()
        onto = set(self._rules.target_databases(databases))
        if settings.databases is None:
            onto.update(identity.databases)
        expected = sum(header.databases[number].keys for number in databases)
        piece = PieceSize(settings.big_values.piece_bytes, settings.big_values.piece_elements)
        rules = FindingRules(run.ledger, run.id, settings, identity)
        with (
            run.phase(PhaseName.VERIFY, expected) as detail,
            Bodies(self._file.path, header.rdb_version, piece) as bodies,
            Places(self._rules) as places,
            self._artifact.open_manifest() as manifest,
            Throttle(
                settings.throttle,
                settings.verify.batch_keys,
                endpoints=[self._target],
                run=run.handle,
                progress=self._progress,
            ) as pace,
        ):
            meter = Meter(run.handle, PhaseName.VERIFY, self._progress)
            places.note(manifest)
            places.sort()
            comparer = FileComparer(
                self._target,
                identity,
                bodies,
                selection=self._selection(),
                big=BigValues.of(settings.big_values),
                tolerance_ms=settings.verify.expiry_tolerance_ms,
                pace=pace,
                on_findings=lambda found: run.handle.add_findings(PhaseName.VERIFY, rules.apply(found)),
                on_progress=meter.advance,
            )
            comparer.compare(manifest)
            comparer.search(places, sorted(onto), databases)
            totals = comparer.totals
            counts = run.ledger.finding_counts(run.id)
            unreadable = counts.get((FindingClass.UNREADABLE, FindingState.OPEN), 0)
            coverage = Coverage(
                expected,
                totals.scanned - totals.vanished - unreadable,
                totals.target_scanned,
                tuple(databases) if settings.databases is not None else None,
                totals.excluded,
            )
            detail.update(
                meter.finish()
                | {
                    "keys": totals.scanned,
                    "bytes": meter.size,
                    "source_keys": expected,
                    "target_keys": sum(identity.databases.get(number, 0) for number in onto),
                    "compared": coverage.compared,
                    "equal": totals.equal_keys,
                    "vanished": totals.vanished,
                    "unreadable": unreadable,
                    "big": totals.big,
                    "excluded": dict(totals.excluded),
                    "out_of_scope": totals.out_of_scope,
                    "target_scanned": totals.target_scanned,
                    "extra": counts.get((FindingClass.EXTRA, FindingState.OPEN), 0)
                    + counts.get((FindingClass.EXTRA, FindingState.EXCEPTION), 0),
                    "rechecks": 0,
                    "settled": 0,
                    "expiry_tolerance_ms": settings.verify.expiry_tolerance_ms,
                    "field_expiries": True,
                    "max_expiry_drift_ms": totals.max_expiry_drift_ms,
                    "fingerprints": totals.fingerprints(),
                    "throttle": pace.summary(),
                }
            )
            run.handle.tally(PhaseName.VERIFY, {place: (keys, 0) for place, keys in totals.tallies.items()})
            conclusion = conclude(coverage, counts)
        run.conclude(conclusion)
        return conclusion


def _finding(odd: OddKey) -> NewFinding:
    finding_class, rule = {
        "kept": (FindingClass.SKIPPED, "copy.conflict=skip"),
        "refused": (FindingClass.REFUSED, None),
        "not carried": (FindingClass.NOT_CARRIED, TYPED_REWRITE),
    }[odd.what]
    return NewFinding(
        finding_class,
        odd.database,
        odd.key,
        source_kind=odd.kind,
        detail=odd.detail,
        state=FindingState.EXCEPTION if rule else FindingState.OPEN,
        rule=rule,
    )


def _figures(totals: RestoreTotals, start: int) -> dict[str, object]:
    return {
        "keys": totals.written,
        "bytes": totals.size,
        "written": totals.written,
        "skipped": totals.skipped,
        "refused": len(totals.refused),
        "relabelled": totals.relabelled,
        "downgraded": totals.downgraded,
        "rewritten": totals.rewritten,
        "big": totals.in_pieces,
        "left_out": totals.left_out,
        "resumed_at": start,
    }
