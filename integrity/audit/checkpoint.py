"""A checkpoint: the head of the audit chain, signed.

The chain tells whether any event before its head was changed; a checkpoint that is kept elsewhere tells that the head
itself is the one that was there at the time, so that neither a cut-off tail nor a chain made anew goes unseen.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from integrity.audit.keys import PublicKey, SigningKey, Standing, Trust, exact_base64
from integrity.audit.texts import Table, line_of, number_at, require_names, require_time, shown, text_at
from integrity.ledger.audit import canonical

FORMAT: Final = "greenfly-checkpoint 1"
EVENT_KIND: Final = "audit.checkpoint"
"""Under which a checkpoint is in the chain itself, after the event that it signs."""
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_KEY_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAMES: Final = frozenset({"format", "ledger", "sequence", "head", "at", "key_id", "signature"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """That the event *sequence* of a ledger had the hash *head*."""

    ledger: str
    """Hash of the ledger's first event, which no other ledger has."""
    sequence: int
    head: str
    at: str
    """ISO 8601 text, UTC, kept as it was signed."""
    key_id: str
    signature: bytes

    @classmethod
    def make(cls, key: SigningKey, ledger: str, sequence: int, head: str) -> Self:
        """Sign this head, now."""
        at = datetime.now(UTC).isoformat()
        message = _message(ledger, sequence, head, at, key.public.id)
        return cls(ledger, sequence, head, at, key.public.id, key.sign(message))

    @classmethod
    def read(cls, table: Table) -> Self:
        """From its JSON form.

        :raises ValueError: it is none, or of a format that this version does not know.
        """
        stated = table.get("format")
        if stated != FORMAT:
            raise ValueError(f"its format is {shown(stated)}, not {FORMAT!r}")
        require_names(table, _NAMES)
        ledger, head, key_id = (text_at(table, name) for name in ("ledger", "head", "key_id"))
        if not _HASH.fullmatch(ledger) or not _HASH.fullmatch(head) or not _KEY_ID.fullmatch(key_id):
            raise ValueError("a hash in it is none")
        try:
            signature = exact_base64(text_at(table, "signature"), 64)
        except ValueError as error:
            raise ValueError(f"its signature is none: {error}") from None
        return cls(
            ledger, number_at(table, "sequence"), head, require_time(text_at(table, "at")), key_id, signature
        )

    def to_dict(self) -> dict[str, object]:
        """Its JSON form."""
        return {
            "format": FORMAT,
            "ledger": self.ledger,
            "sequence": self.sequence,
            "head": self.head,
            "at": self.at,
            "key_id": self.key_id,
            "signature": base64.b64encode(self.signature).decode("ascii"),
        }

    def line(self) -> bytes:
        """Its line in a file of checkpoints."""
        return line_of(self.to_dict())

    def standing(self, trust: Trust, claimed: PublicKey | None = None) -> Standing:
        """What its signature is worth."""
        message = _message(self.ledger, self.sequence, self.head, self.at, self.key_id)
        return trust.judge(self.key_id, self.signature, message, claimed)


def _message(ledger: str, sequence: int, head: str, at: str, key_id: str) -> bytes:
    return canonical(
        {"format": FORMAT, "ledger": ledger, "sequence": sequence, "head": head, "at": at, "key_id": key_id}
    ).encode("ascii")
