"""Taking a snapshot over the replication protocol: the source's own RDB stream, all keys at one moment.

The stream goes to the disk as it comes, encrypted on its way where it is to be; then the file is read once more for the
manifest, from the disk and without the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import LedgerError
from integrity.progress import Progress, Silent
from integrity.replication.receive import RdbReceiver, Received
from integrity.snapshot.folder import PartialFolder
from integrity.snapshot.foreign import ForeignIndexer, header_of, publish
from integrity.snapshot.header import POINT_IN_TIME, RDB_NAME, FileEntry
from integrity.snapshot.sealing import read_recipients
from integrity.snapshot.totals import SnapshotTotals
from integrity.snapshot.writer import Snapshot

_SHOW_SECONDS: Final = 0.5
_MIB: Final = 1 << 20


class ReplicationTaker:
    """Takes one snapshot of one server: every key of all its databases, at one moment.

    :param directory: the folder to create.
    :param encrypt_to: age recipients; plain files where there is none.
    :param on_progress: told bytes as they are received, and then keys as they are indexed.
    :raises ConfigurationError: one of *encrypt_to* is no recipient.
    """

    def __init__(
        self,
        source: Endpoint,
        identity: Identity,
        directory: Path,
        *,
        encrypt_to: Sequence[str] = (),
        on_progress: Callable[[int, int], None],
        progress: Progress | None = None,
    ) -> None:
        self._source = source
        self._identity = identity
        self._directory = directory
        self._recipients = read_recipients(encrypt_to)
        self._on_progress = on_progress
        self._progress = progress or Silent()
        self._shown_at = 0.0
        self._begun_at = 0.0
        self._size = 0
        self.totals = SnapshotTotals()
        self.received: Received | None = None
        """How the stream came; after :meth:`take`."""

    def take(self) -> Snapshot:
        """Receive the stream, index it, and write the artifact.

        :raises Refused: the source does not replicate to Greenfly; nothing was written.
        :raises PermissionRefused: the user may not; nothing was written.
        :raises ServerError: the source is lost or cannot save; nothing is left but a folder named ``….partial``.
        :raises ArtifactError: what was received is no whole RDB file, or holds what is not known.
        :raises LedgerError: the folder cannot be written.
        """
        started = datetime.now(UTC)
        receiver = RdbReceiver(
            self._source, say=self._progress.say, while_waiting=lambda: self._on_progress(0, 0)
        )
        with receiver:
            receiver.start()
            try:
                return self._take(receiver, started)
            except OSError as error:
                raise LedgerError(
                    f"The snapshot folder {self._directory} cannot be written ({error.strerror or error}).",
                    "Free disk space or set snapshot.directory to another place.",
                ) from error

    def _take(self, receiver: RdbReceiver, started: datetime) -> Snapshot:
        with PartialFolder(self._directory, self._recipients) as folder:
            with folder.sink(RDB_NAME) as sink:
                received = self.received = receiver.write_into(sink, self._count)
            receiver.close()
            self._progress.say(_told(received))
            indexer = ForeignIndexer(
                folder,
                sink.path,
                as_of_ms=int(started.timestamp() * 1000),
                on_progress=lambda keys, size: self._on_progress(keys, 0),
            )
            self.totals = indexer.totals
            indexed = indexer.index()
            facts = indexed.facts.model_copy(
                update={
                    "replication_id": received.replication_id,
                    "replication_offset": received.offset,
                }
            )
            header = header_of(
                folder,
                indexed,
                facts=facts,
                source=self._identity.to_dict(),
                consistency=POINT_IN_TIME,
                started_at=started,
                sealed_rdb=FileEntry(
                    bytes=sink.file.bytes, xxh3_128=sink.file.xxh3_128, sha256=sink.file.sha256
                ),
            )
            return publish(folder, header, indexed)

    def _count(self, size: int) -> None:
        self._on_progress(0, size)
        now = monotonic()
        self._begun_at = self._begun_at or now
        self._size += size
        if now - self._shown_at >= _SHOW_SECONDS and now > self._begun_at:
            self._shown_at = now
            rate = self._size / (now - self._begun_at)
            self._progress.show(f"received {self._size / _MIB:,.0f} MiB at {rate / _MIB:,.0f} MiB/s")


def _told(received: Received) -> str:
    rate = received.bytes / max(received.seconds, 0.001) / _MIB
    how = "from its child's socket" if received.diskless else "from a file that it wrote first"
    return (
        f"Received {received.bytes / _MIB:,.1f} MiB {how} in {received.seconds:,.1f} s ({rate:,.0f} MiB/s), "
        f"after {received.waited_seconds:,.1f} s of waiting."
    )
