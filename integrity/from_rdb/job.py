"""A run whose source is an RDB file: check, index, load, verify.

The file is only read, and stays where it is.  It is read whole, its end and CRC-64 proved and every value decoded,
before the first write; a file that is damaged costs nothing but that reading.  What is loaded is what the index knows,
key by key, and every key is read back from the target at the end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from integrity.afterwards import seen_now
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.from_rdb.load import FileLoad
from integrity.from_rdb.source_file import SourceFile
from integrity.from_rdb.subject import Subject
from integrity.from_rdb.verify import verify_file
from integrity.ledger.models import PhaseName
from integrity.meter import Meter
from integrity.migration import Run
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import ConflictPolicy, Settings
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.folder import PartialFolder
from integrity.snapshot.foreign import ForeignIndexer, header_of, publish
from integrity.snapshot.header import AS_THE_FILE, RDB_NAME, ForeignRdb
from integrity.snapshot.restore import Selection, require_databases, require_empty
from integrity.snapshot.sealing import read_recipients
from integrity.verify.verdict import Conclusion

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
        self._subject: Subject
        self._selection: Selection

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
        with run.phase(PhaseName.SNAPSHOT) as detail:
            meter = Meter(run.handle, PhaseName.SNAPSHOT, self._progress)
            try:
                artifact = self._index(meter)
            except OSError as error:
                raise LedgerError(
                    f"The snapshot folder {self._directory} cannot be written ({error.strerror or error}).",
                    "Free disk space or set snapshot.directory to another place.",
                ) from error
            header = artifact.header
            databases = {number: entry.keys for number, entry in header.databases.items()}
            entry = header.plain_files()[RDB_NAME]
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
                    "rdb_bytes": self._file.size,
                    "uncompared": header.without_digest,
                    "functions": list(foreign.functions) if foreign else [],
                    "module_data": list(foreign.module_data) if foreign else [],
                    "fingerprints": {str(n): e.fingerprint or "" for n, e in header.databases.items()},
                }
            )
            self._subject = Subject(
                run, self._progress, self._file, artifact, self._target, self._identity, self._rules
            )
            require_databases(self._target, self._rules.target_databases(self._subject.databases))
            self._say_what_stays(header.foreign)

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

    def _say_what_stays(self, foreign: ForeignRdb | None) -> None:
        if foreign is None:
            return
        for sentence in foreign.left_behind():
            self._progress.say(sentence)
        if not foreign.checksum:
            self._progress.say("The file has no checksum: only its structure could be proved.")

    # -- load and verify ----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Write every key that the run is about to the target.

        :raises Refused: the target has less memory free than the values need.
        :raises ServerError: the target is lost, full, read-only or refuses; what was acknowledged is checkpointed.
        :raises ArtifactError: the file was changed since it was indexed.
        """
        with self._run.phase(PhaseName.STREAM, self._subject.keys) as detail:
            self._selection = FileLoad(self._subject).run(detail)

    def verify(self) -> Conclusion:
        """Read every key back from the target, compare it with the file, look for others, and conclude.

        :raises ServerError: the target is lost or refuses; the verdict is INCONCLUSIVE.
        """
        with self._run.phase(PhaseName.VERIFY, self._subject.keys) as detail:
            conclusion = verify_file(self._subject, self._selection, detail)
            detail["afterwards"] = seen_now([self._target])
        self._run.conclude(conclusion)
        return conclusion
