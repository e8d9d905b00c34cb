"""Server URLs: parsing, and masking for everything that people read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from integrity.errors import ConfigurationError

Scheme = Literal["redis", "rediss", "unix"]
SCHEMES: tuple[Scheme, ...] = ("redis", "rediss", "unix")
Mode = Literal["single", "cluster", "sentinel"]
MODES: tuple[Mode, ...] = ("cluster", "sentinel")

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
    mode: Mode = "single"
    """What listens there: one server, nodes of a cluster, or Sentinels that know where the master is."""
    others: tuple[tuple[str, int], ...] = ()
    """Further nodes or Sentinels."""
    service: str = ""
    """The master's name, as Sentinels know it."""

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        if self.scheme == "unix":
            return f"unix://{user}{self.path}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        mode = "" if self.mode == "single" else f"+{self.mode}"
        return f"{self.scheme}{mode}://{user}{hosts}{f'/{self.service}' if self.service else ''}"

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Host and port of everything that the URL names."""
        return ((self.host, self.port), *self.others)

    def node(self, host: str, port: int) -> Address:
        """One server that was learned of here, reached in the same way."""
        return replace(self, host=host, port=port, mode="single", others=(), service="")


def parse_address(url: str, setting: str) -> Address:
    """Parse a ``redis://``, ``rediss://`` or ``unix://`` URL; ``redis+cluster://`` and ``redis+sentinel://`` too.

    :param setting: the name of the setting, for the error text.
    :raises ConfigurationError: another scheme, no host, a port or database that is no number, an unknown query name.
    """
    scheme, _, rest = url.strip().partition("://")
    base, _, mode_text = scheme.partition("+")
    mode = next((mode for mode in MODES if mode == mode_text and base in {"redis", "rediss"}), None)
    if mode is not None:
        return _parse_many(base, mode, rest, setting, mask_whole_url(url))
    return _parse_one(url, setting, mask_whole_url(url))


def _parse_many(base: str, mode: Mode, rest: str, setting: str, masked: str) -> Address:
    """Several hosts, separated by commas; for Sentinels the master's name comes first in the path."""
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    before, at, hosts = rest[:end].rpartition("@")
    path, question, query = rest[end:].partition("?")
    service = ""
    if mode == "sentinel":
        service, _, path = path.strip("/").partition("/")
        service, path = unquote(service), f"/{path}"
        if not service:
            raise ConfigurationError(
                f"{setting}: {masked} does not name the master.",
                "Write redis+sentinel://host:26379,host:26379/mymaster, as `SENTINEL masters` lists it.",
            )
    first, *more = hosts.split(",")
    address = _parse_one(f"{base}://{before}{at}{first}{path}{question}{query}", setting, masked)
    default = 26379 if mode == "sentinel" else 6379
    if mode == "cluster" and address.database:
        raise ConfigurationError(
            f"{setting}: {masked} names the database {address.database}.",
            "A cluster is read as a whole; leave the number out.",
        )
    others = []
    for host in more:
        other = _parse_one(f"{base}://{host}", setting, masked)
        others.append((other.host, _port(host, default)))
    return replace(
        address,
        port=_port(first, default),
        database=None if mode == "cluster" else address.database,
        mode=mode,
        others=tuple(others),
        service=service,
    )


def _port(host: str, default: int) -> int:
    """The port in ``host:port``, which is known to be well-formed."""
    return urlsplit(f"redis://{host}").port or default


def _parse_one(url: str, setting: str, masked: str) -> Address:
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
            "Use redis:// (plain), rediss:// (TLS) or unix:// (socket path); redis+cluster:// for a cluster, "
            "redis+sentinel:// for Sentinels.",
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
