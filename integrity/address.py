"""Server URLs: parsing, and masking for everything that people read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from integrity.errors import ConfigurationError

Scheme = Literal["redis", "rediss", "unix"]
SCHEMES: tuple[Scheme, ...] = ("redis", "rediss", "unix")

_IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:@/?#\s]*):(?:(?!://)[^\n])*@")
_WHOLE = re.compile(r"^\s*(?P<scheme>[A-Za-z][\w+.-]*://)?(?P<user>[^:@/?#]*):.*$", re.DOTALL)
_QUERY_SECRET = re.compile(r"(?i)([?&](?:password|passwd|pwd|secret|token|sslpassword)=)[^&#\s]*")


def mask_url(text: str) -> str:
    """*text* with the password of any URL in it replaced by stars; safe on text that holds no URL.

    Up to the last ``@`` before the next URL: a password may hold an unescaped ``@`` or a space, and hiding too much of
    a message is better than showing a piece of one.
    """
    return _QUERY_SECRET.sub(r"\1***", _IN_TEXT.sub(r"\g<scheme>\g<user>:***@", text))


def mask_whole_url(url: str) -> str:
    """A string that is meant to be one URL, masked even where it is none: without a scheme, or with spaces in it."""
    before, at, server = url.rpartition("@")
    if not at:
        return mask_url(url)
    known = _WHOLE.match(before)
    user = f"{known['scheme'] or ''}{known['user']}:" if known else ""
    _scheme, slashes, name = before.partition("://")
    if not known and slashes and not set(name) & set("/?#"):
        return mask_url(url)  # a user without a password
    return mask_url(f"{user}***@{server}")


@dataclass(frozen=True, slots=True)
class Address:
    """One parsed server URL.  ``str()`` never shows the password."""

    scheme: Scheme
    host: str
    port: int
    path: str
    username: str | None
    password: str | None = field(repr=False)
    database: int | None

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        if self.scheme == "unix":
            return f"unix://{user}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{user}{host}:{self.port}"


def parse_address(url: str, setting: str) -> Address:
    """Parse a ``redis://``, ``rediss://`` or ``unix://`` URL.

    :param setting: the name of the setting, for the error text.
    :raises ConfigurationError: another scheme, no host, a port or database that is no number, an unknown query name.
    """
    masked = mask_whole_url(url)
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        # The parser's own message can quote a piece of the password; it is not repeated.
        raise ConfigurationError(
            f"{setting}: {masked} is not a URL.",
            "Write redis://user:password@host:6379 and percent-encode special characters of the password.",
        ) from None
    scheme = next((s for s in SCHEMES if s == parts.scheme), None)
    if scheme is None:
        raise ConfigurationError(
            f"{setting}: {masked} has the scheme {parts.scheme or '(none)'!r}.",
            "Use redis:// (plain), rediss:// (TLS) or unix:// (socket path).",
        )
    if "@" in parts.path + parts.query or parts.fragment:
        raise ConfigurationError(
            f"{setting}: {masked} has a password with special characters in it.",
            "Percent-encode it (@ is %40, / is %2F, # is %23, ? is %3F), or give it in a password_file.",
        )
    query = parse_qs(parts.query, keep_blank_values=True)
    unknown = sorted(set(query) - {"db"})
    if unknown:
        raise ConfigurationError(
            f"{setting}: {masked} has the option {unknown[0]!r}.",
            "Only ?db=N is read from a URL; TLS files and timeouts are settings of their own.",
        )
    database_text = query["db"][0] if "db" in query else ("" if scheme == "unix" else parts.path.strip("/"))
    if database_text and not database_text.isdecimal():
        raise ConfigurationError(
            f"{setting}: {masked} names the database {database_text!r}.", "Use a number."
        )
    database = int(database_text) if database_text else None
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if scheme == "unix":
        path = unquote(parts.path)
        if not path:
            raise ConfigurationError(
                f"{setting}: {masked} has no socket path.", "Write unix:///run/redis.sock."
            )
        return Address(scheme, "", 0, path, username, password, database)
    if not parts.hostname:
        raise ConfigurationError(f"{setting}: {masked} has no host.", "Write redis://host:6379.")
    return Address(scheme, parts.hostname, port or 6379, "", username, password, database)
