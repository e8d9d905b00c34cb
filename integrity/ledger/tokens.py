"""Tokens with which people sign in on the review page.  The ledger holds only hashes of them."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Engine, insert, select, update

from integrity.errors import ConfigurationError, Refused
from integrity.ledger import audit
from integrity.ledger.database import reading, repeated, writing
from integrity.ledger.review_models import ReviewToken, Role
from integrity.ledger.schema import require_known

_SHAPE: Final = re.compile(r"greenfly_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_NOBODY: Final = hashlib.sha256(b"").hexdigest()
_NAME: Final = re.compile(r"\S(?:.{0,98}\S)?")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token, without its secret."""

    id: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None = None
    revoked_by: str | None = None

    def holds(self, now: datetime) -> bool:
        """Whether somebody can still sign in with it."""
        return self.revoked_at is None and now < self.expires_at

    def state(self, now: datetime) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.holds(now) else "expired"

    def to_dict(self, now: datetime) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role.value,
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
            "expires_at": self.expires_at.isoformat(),
            "revoked_at": self.revoked_at.isoformat() if self.revoked_at else None,
            "revoked_by": self.revoked_by,
            "state": self.state(now),
        }


_COLUMNS: Final = (
    ReviewToken.id,
    ReviewToken.name,
    ReviewToken.role,
    ReviewToken.created_at,
    ReviewToken.created_by,
    ReviewToken.expires_at,
    ReviewToken.revoked_at,
    ReviewToken.revoked_by,
)


def add_token(engine: Engine, name: str, role: Role, by: str, days: float) -> tuple[TokenRecord, str]:
    """Make a token; the second value is the token itself, which nothing keeps.

    :param days: until it expires.
    :raises ConfigurationError: a name that is empty, too long, or not printable.
    """
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise ConfigurationError(
            "The name of a token's owner is 1 to 100 printable characters.", "Give --name."
        )
    number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    record = TokenRecord(number, name, role, now, by, now + timedelta(days=days))
    _record(engine, record, _hash(secret))
    return record, f"greenfly_{number}_{secret}"


@repeated
def _record(engine: Engine, token: TokenRecord, secret_hash: str) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(ReviewToken).values(
                id=token.id,
                name=token.name,
                role=token.role,
                secret_hash=secret_hash,
                created_at=token.created_at,
                created_by=token.created_by,
                expires_at=token.expires_at,
            )
        )
        audit.append(
            connection, None, token.created_by, "review.token-added", token.to_dict(token.created_at)
        )


@repeated
def read_tokens(engine: Engine) -> list[TokenRecord]:
    """Oldest first."""
    query = select(*_COLUMNS).order_by(ReviewToken.created_at, ReviewToken.id)
    with reading(engine) as connection:
        return [TokenRecord(**row._mapping) for row in connection.execute(query)]


@repeated
def read_token(engine: Engine, number: str) -> TokenRecord | None:
    """One token by the part of it that is no secret.

    :raises LedgerError: the ledger's schema is another one by now.
    """
    with reading(engine) as connection:
        require_known(connection, engine)
        row = connection.execute(select(*_COLUMNS).where(ReviewToken.id == number)).one_or_none()
    return TokenRecord(**row._mapping) if row is not None else None


@repeated
def find_token(engine: Engine, text: str) -> TokenRecord | None:
    """The token that *text* is; None where it is none, or one that does not hold any more.

    What it costs tells nothing about how near *text* is to a token.
    """
    parts = _SHAPE.fullmatch(text)
    number, secret = (parts[1], parts[2]) if parts else ("", "")
    query = select(*_COLUMNS, ReviewToken.secret_hash).where(ReviewToken.id == number)
    with reading(engine) as connection:
        row = connection.execute(query).one_or_none()
    same = hmac.compare_digest(_hash(secret), row.secret_hash if row is not None else _NOBODY)
    if row is None or parts is None or not same:
        return None
    values = dict(row._mapping)
    del values["secret_hash"]
    token = TokenRecord(**values)
    return token if token.holds(datetime.now(UTC)) else None


@repeated
def revoke_token(engine: Engine, number: str, by: str) -> TokenRecord:
    """Record that nobody can sign in with it, or act with it, any more.

    :raises ConfigurationError: there is no such token.
    :raises Refused: it was revoked before.
    """
    now = datetime.now(UTC)
    with writing(engine) as connection:
        row = connection.execute(select(*_COLUMNS).where(ReviewToken.id == number)).one_or_none()
        if row is None:
            raise ConfigurationError(
                f"There is no token {number!r}.", "`greenfly review token list` shows all."
            )
        if row.revoked_at is not None:
            raise Refused(f"Token {number} was revoked before, by {row.revoked_by}.", "")
        changed = update(ReviewToken).where(ReviewToken.id == number)
        connection.execute(changed.values(revoked_at=now, revoked_by=by))
        token = TokenRecord(**{**row._mapping, "revoked_at": now, "revoked_by": by})
        audit.append(connection, None, by, "review.token-revoked", {"id": number, "name": token.name})
    return token


def _hash(secret: str) -> str:
    # The secret is 256 random bits: there is nothing to guess, and so nothing to slow down.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
