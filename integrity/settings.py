"""Settings: ``greenfly.toml``, then ``GREENFLY_*`` variables, then flags, in rising order.

Nested names use a double underscore: ``GREENFLY_SOURCE__URL``, ``GREENFLY_COPY__BATCH_KEYS``.  An unknown name is an
error, not a silence.  Secrets are :class:`~pydantic.SecretStr` and print as stars.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from platformdirs import user_state_path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from integrity.assess.settings import AssessSettings
from integrity.audit.settings import AuditSettings
from integrity.errors import ConfigurationError
from integrity.flow_settings import FlowSettings
from integrity.metrics_settings import MetricsSettings, TracingSettings
from integrity.native.settings import NativeSettings
from integrity.review_settings import ReviewSettings
from integrity.rule_text import read_map, read_pattern, read_prefix, read_rename, read_size
from integrity.section import Section
from integrity.strategy import Strategy
from integrity.switch.cutover_settings import CutoverSettings, RollbackSettings
from integrity.switch.settings import SwitchSettings
from integrity.switch.watch_settings import WatchSettings
from integrity.sync.settings import SyncSettings

CONFIG_FILE_VARIABLE = "GREENFLY_CONFIG"
DEFAULT_CONFIG_FILE = Path("greenfly.toml")
_NO_SETTINGS = (
    "GREENFLY_OPERATOR",
    "GREENFLY_PHASE",
    "GREENFLY_SWITCH_ACTION",
    "GREENFLY_SWITCH_NAME",
    "GREENFLY_SWITCH_EXPECTED",
)
"""Who runs this; what applications are told; what a switch command is told."""

Overrides = Mapping[str, object]
"""Nested plain values, as a TOML table has them: ``{"source": {"url": "redis://…"}}``."""


class ConflictPolicy(StrEnum):
    """What to do when the target already holds a key."""

    FAIL = "fail"
    """Refuse to start on a target that holds any key (the default)."""
    SKIP = "skip"
    """Keep the target's value and record the key as skipped."""
    REPLACE = "replace"
    """Overwrite the target's value."""


class ExtraPolicy(StrEnum):
    """How a key that only the target has counts."""

    FAIL = "fail"
    ALLOW = "allow"
    """Listed as an exception; the verdict can be PASS WITH EXCEPTIONS."""


class FieldExpiryPolicy(StrEnum):
    """When the expiries of single hash fields are compared."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class EndpointSettings(Section):
    """How to reach one server.  User and password: URL, then ``username``/``password``, then ``password_file``."""

    url: SecretStr | None = Field(None, description="redis://, rediss:// or unix:// URL")
    username: str | None = Field(None, description="user, if not in the URL")
    password: SecretStr | None = Field(None, description="password, if not in the URL")
    password_file: Path | None = Field(None, description="file whose first line is the password")
    tls_ca_file: Path | None = Field(None, description="CA certificates (PEM); the system's by default")
    tls_cert_file: Path | None = Field(None, description="client certificate (PEM)")
    tls_key_file: Path | None = Field(None, description="client key (PEM)")
    tls_verify: bool = Field(True, description="verify the server's certificate and host name")
    connect_timeout: Annotated[float, Field(gt=0)] = Field(
        5.0, description="seconds to wait for a connection"
    )
    io_timeout: Annotated[float, Field(gt=0)] = Field(30.0, description="seconds to wait for one answer")


class CopySettings(Section):
    """How keys are streamed."""

    batch_keys: Annotated[int, Field(ge=1, le=1000)] = Field(
        1000, description="keys per pipelined batch; Dragonfly stops reading when thousands are in flight"
    )
    batch_bytes: Annotated[int, Field(ge=64 * 1024)] = Field(
        4 * 1024 * 1024, description="bytes one batch aims at; the batch shrinks when values are larger"
    )
    probe_sizes: bool = Field(
        True,
        description="ask each key's memory use before its content, so that memory is bounded by batch_bytes; without, "
        "a batch holds batch_keys values of whatever size and the copy is some 15 % faster",
    )
    conflict: ConflictPolicy = Field(
        ConflictPolicy.FAIL, description="fail, skip or replace on an existing target key"
    )


class SnapshotMethod(StrEnum):
    """How a snapshot is taken."""

    SCAN = "scan"
    """Key by key; works everywhere, and is not a point in time under writes."""
    REPLICATION = "replication"
    """The source's own RDB stream, received as a replica would: all keys at one moment."""
    AUTO = "auto"
    """By replication where the source allows it, else by SCAN; which one and why is recorded."""


class SnapshotSettings(Section):
    """The snapshot artifact taken before the copy."""

    enabled: bool = Field(True, description="take a snapshot of the source before streaming")
    method: SnapshotMethod = Field(
        SnapshotMethod.SCAN,
        description="scan (key by key), replication (the source's own RDB stream: all keys at one moment, its main "
        "thread stays free, it forks) or auto (replication where the source allows it)",
    )
    directory: Path | None = Field(None, description="where snapshots go; <state_dir>/snapshots by default")
    batch_keys: Annotated[int, Field(ge=1, le=1000)] = Field(
        200, description="keys read in one MULTI/EXEC, which blocks the source for about 8 µs per key"
    )
    encrypt_to: tuple[Annotated[str, Field(pattern=r"^age1[02-9ac-hj-np-z]{58}$")], ...] = Field(
        (), description="age recipients (age1…) that can read the snapshots; none: they are not encrypted"
    )
    identity: SecretStr | None = Field(
        None, description="age identity (AGE-SECRET-KEY-1…) that reads encrypted snapshots"
    )
    identity_file: Path | None = Field(None, description="file that holds age identities")
    keep: Annotated[int | None, Field(ge=1)] = Field(
        None, description="`snapshot prune` keeps at least this many"
    )
    max_age_days: Annotated[float | None, Field(gt=0)] = Field(
        None, description="`snapshot prune` keeps what is not older than this many days"
    )

    @field_validator("encrypt_to", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable holds a list as text."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


class BigValueSettings(Section):
    """When and how a value is read in pieces instead of whole; the same for copy, snapshot and verify."""

    threshold_bytes: Annotated[int, Field(ge=1024)] = Field(
        1024 * 1024,
        description="a key that uses more memory than this is read in pieces (DUMP of 1 MiB of hash fields stops its "
        "server for about 10 ms); known only where copy.probe_sizes is on",
    )
    piece_bytes: Annotated[int, Field(ge=1024)] = Field(1024 * 1024, description="bytes one piece aims at")
    piece_elements: Annotated[int, Field(ge=1, le=16_384)] = Field(
        4096, description="most elements in one piece"
    )


class VerifySettings(Section):
    """How both sides are compared."""

    batch_keys: Annotated[int, Field(ge=1, le=1000)] = Field(1000, description="keys per pipelined batch")
    batch_bytes: Annotated[int, Field(ge=64 * 1024)] = Field(
        4 * 1024 * 1024, description="bytes one batch aims at"
    )
    expiry_tolerance_ms: Annotated[int, Field(ge=0)] = Field(
        1000,
        description="how far apart two absolute expiries may be and still count as equal, in milliseconds",
    )
    rechecks: Annotated[int, Field(ge=1, le=100)] = Field(
        2, description="how often a difference is re-read before it counts"
    )
    recheck_delay: Annotated[float, Field(ge=0)] = Field(0.5, description="seconds between two re-reads")
    field_expiries: FieldExpiryPolicy = Field(
        FieldExpiryPolicy.AUTO,
        description="compare the expiries of single hash fields: auto (where the source may have some, or the target "
        "says that it has), always, never",
    )
    extra_keys: ExtraPolicy = Field(
        ExtraPolicy.FAIL, description="fail or allow keys that only the target has"
    )


def _checked_pattern(text: str) -> str:
    read_pattern(text)
    return text


def _checked_prefix(text: str) -> str:
    read_prefix(text)
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("it must not be empty, or every key would be renamed")
    return text


_Pattern = Annotated[str, AfterValidator(_checked_pattern)]
_Prefix = Annotated[str, Field(max_length=1000), AfterValidator(_checked_prefix)]
_TypeName = Annotated[str, Field(min_length=1, max_length=100)]
_Database = Annotated[int, Field(ge=0, le=1_000_000)]
_Size = Annotated[int, Field(ge=1, le=2**63 - 1)]


class RenameSettings(Section):
    """One rename: the beginning of a key, and what it becomes."""

    from_: Annotated[_Prefix, AfterValidator(_not_empty)] = Field(
        alias="from", description="how the key begins"
    )
    to: _Prefix = Field(description="what that beginning becomes; may be empty")


class RuleSettings(Section):
    """Which keys a run is about, and where they go; :class:`integrity.rules.Rules` applies them."""

    include: tuple[_Pattern, ...] = Field((), description="only keys that one of these patterns matches")
    exclude: tuple[_Pattern, ...] = Field((), description="no key that one of these patterns matches")
    include_types: tuple[_TypeName, ...] = Field(
        (), description="only keys of these types, as TYPE names them"
    )
    exclude_types: tuple[_TypeName, ...] = Field((), description="no key of these types")
    min_bytes: Annotated[_Size | None, BeforeValidator(read_size)] = Field(
        None, description="no key that uses less memory on the source (MEMORY USAGE)"
    )
    max_bytes: Annotated[_Size | None, BeforeValidator(read_size)] = Field(
        None, description="no key that uses more memory on the source (MEMORY USAGE)"
    )
    databases: Annotated[dict[_Database, _Database], BeforeValidator(read_map)] = Field(
        {}, description="source database -> target database; the others keep their number"
    )
    rename: tuple[Annotated[RenameSettings, BeforeValidator(read_rename)], ...] = Field(
        (), description="beginnings of keys that change; the first that fits counts"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_bytes is not None and self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes is more than max_bytes, so no key could be selected")
        if set(self.include) & set(self.exclude):
            raise ValueError("include and exclude hold the same pattern")
        if {name.lower() for name in self.include_types} & {name.lower() for name in self.exclude_types}:
            raise ValueError("include_types and exclude_types hold the same type")
        earlier: list[bytes] = []
        for place, rename in enumerate(self.rename, start=1):
            prefix = read_prefix(rename.from_)
            for other, shorter in enumerate(earlier, start=1):
                if prefix == shorter:
                    raise ValueError(f"rename {place} has the same from as rename {other}")
                if prefix.startswith(shorter):
                    raise ValueError(
                        f"rename {place} can never apply, because rename {other} takes every such key; "
                        "put the longer from first"
                    )
            earlier.append(prefix)
        return self


class ThrottleSettings(Section):
    """How kind a run is to its servers; see ``docs/throttle.md``."""

    enabled: bool = Field(
        True, description="measure both servers' latency, and read in smaller batches while one answers late"
    )
    max_latency_ms: Annotated[float, Field(gt=0, le=60_000)] = Field(
        20.0, description="how much later than when it was quiet a server may answer, in milliseconds"
    )
    keys_per_second: Annotated[int | None, Field(ge=1)] = Field(
        None, description="no more keys than this; `greenfly runs limit` changes it while the run goes on"
    )
    bytes_per_second: Annotated[_Size | None, BeforeValidator(read_size)] = Field(
        None, description="no more bytes than this (memory on the server), as 50MB or 1.5GiB"
    )


def default_state_dir() -> Path:
    """The folder of the ledger, snapshots and reports when none is set (the user's state folder)."""
    return user_state_path("greenfly")


class Settings(BaseSettings):
    """Everything a run needs to know, frozen."""

    model_config = SettingsConfigDict(
        env_prefix="GREENFLY_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    source: EndpointSettings = EndpointSettings()
    target: EndpointSettings = EndpointSettings()
    replica: EndpointSettings = Field(
        EndpointSettings(), description="a replica of the source to read from, instead of the source itself"
    )
    scratch: EndpointSettings = Field(
        EndpointSettings(),
        description="a server for rehearsals and tried backups, which fill it and empty it",
    )
    databases: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] | None = Field(
        None, description="only these databases; all that hold keys by default"
    )
    strategy: Strategy = Field(
        Strategy.COPY, description="how everything is copied: copy, native (Dragonfly's REPLICAOF), auto"
    )
    assess: AssessSettings = AssessSettings()
    native: NativeSettings = NativeSettings()
    copying: CopySettings = Field(CopySettings(), alias="copy")
    snapshot: SnapshotSettings = SnapshotSettings()
    big_values: BigValueSettings = BigValueSettings()
    verify: VerifySettings = VerifySettings()
    rules: RuleSettings = RuleSettings()
    throttle: ThrottleSettings = ThrottleSettings()
    sync: SyncSettings = SyncSettings()
    switch: SwitchSettings = SwitchSettings()
    cutover: CutoverSettings = CutoverSettings()
    rollback: RollbackSettings = RollbackSettings()
    watch: WatchSettings = WatchSettings()
    audit: AuditSettings = AuditSettings()
    review: ReviewSettings = ReviewSettings()
    flows: FlowSettings = FlowSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    state_dir: Path = Field(default_factory=default_state_dir, description="ledger, snapshots, reports")
    ledger_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL; SQLite in the state folder by default"
    )
    label: str | None = Field(None, max_length=200, description="free text kept with the run")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="processes that share copy and verify through ranges of the keyspace"
    )
    reconnect_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0,
        description="how long to try again when a server is lost or loads its data, before the run breaks off",
    )
    lease_seconds: Annotated[float, Field(ge=1)] = Field(
        30.0, description="how long a silent process owns its run"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """All layers are merged by :func:`load_settings`, which also knows where each value came from."""
        return (init_settings,)

    @property
    def reads_from(self) -> EndpointSettings:
        """The server that keys are read from: the replica where one is set, else the source."""
        return self.replica if self.replica.url is not None else self.source

    @property
    def snapshot_dir(self) -> Path:
        """The folder that holds one folder per snapshot."""
        return self.snapshot.directory or self.state_dir / "snapshots"

    @property
    def report_dir(self) -> Path:
        """The folder that holds one folder per run's report."""
        return self.state_dir / "reports"


Origin = Literal["default", "file", "environment", "flag"]


class LoadedSettings(BaseModel):
    """The effective settings and where each value that is not a default came from."""

    model_config = ConfigDict(frozen=True)

    settings: Settings
    origins: dict[str, str]
    """Dotted name → ``file greenfly.toml``, ``environment GREENFLY_…`` or ``flag``."""


def config_path(explicit: Path | None = None) -> Path | None:
    """The configuration file in force: the flag, then ``GREENFLY_CONFIG``, then ``greenfly.toml`` if it is there.

    :raises ConfigurationError: a file that was named does not exist.
    """
    named = explicit or (
        Path(os.environ[CONFIG_FILE_VARIABLE]) if os.environ.get(CONFIG_FILE_VARIABLE) else None
    )
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(
                f"The configuration file {named} does not exist.", "Name an existing TOML file."
            )
        return named
    return DEFAULT_CONFIG_FILE if DEFAULT_CONFIG_FILE.is_file() else None


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.", "Correct the file.") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", "Check its rights.") from error


_TEST_PREFIXES = ("GREENFLY_TEST_", "GREENFLY_REQUIRE_")
_LISTS = frozenset(
    {
        "databases",
        "rules.include",
        "rules.exclude",
        "rules.include_types",
        "rules.exclude_types",
        "rules.databases",
        "rules.rename",
    }
)


def _read_environment(environ: Mapping[str, str]) -> tuple[dict[str, object], dict[str, str]]:
    """Nested values from ``GREENFLY_A__B`` variables, and the variable each dotted name came from.

    Variables of the test suite (``GREENFLY_TEST_…``, ``GREENFLY_REQUIRE_…``) and those that are not settings are passed
    over by name.
    """
    values: dict[str, object] = {}
    names: dict[str, str] = {}
    passed_over = {CONFIG_FILE_VARIABLE, *_NO_SETTINGS}
    for variable, text in environ.items():
        if (
            not variable.startswith("GREENFLY_")
            or variable in passed_over
            or variable.startswith(_TEST_PREFIXES)
        ):
            continue
        path = variable.removeprefix("GREENFLY_").lower().split("__")
        table = values
        for part in path[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(
                    f"{variable} contradicts another variable.", "Remove one of the two."
                )
            table = inner
        dotted = ".".join(path)
        table[path[-1]] = [part.strip() for part in text.split(",")] if dotted in _LISTS else text
        names[dotted] = variable
    return values, names


def _merge(base: dict[str, object], over: Mapping[str, object]) -> None:
    for name, value in over.items():
        existing = base.get(name)
        if isinstance(existing, dict) and isinstance(value, Mapping):
            _merge(existing, value)
        else:
            base[name] = dict(value) if isinstance(value, Mapping) else value


def _dotted(values: Mapping[str, object], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            names += _dotted(value, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def load_settings(
    overrides: Overrides | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Merge file, environment and *overrides* (flags), in rising order.

    :param overrides: nested plain values, usually from command-line flags; ``None`` leaves out.
    :raises ConfigurationError: an unknown name or a value that does not fit, with the place it came from.
    """
    origins: dict[str, str] = {}
    merged: dict[str, object] = {}
    path = config_path(config_file)
    if path is not None:
        table = _read_toml(path)
        _merge(merged, table)
        origins |= dict.fromkeys(_dotted(table), f"file {path}")
    from_environment, variables = _read_environment(os.environ if environ is None else environ)
    _merge(merged, from_environment)
    origins |= {name: f"environment {variable}" for name, variable in variables.items()}
    if overrides:
        _merge(merged, overrides)
        origins |= dict.fromkeys(_dotted(overrides), "flag")
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(
            _explain(error, origins), "See `greenfly config show` for every name."
        ) from None
    return LoadedSettings(settings=settings, origins=origins)


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """One sentence per problem; never repeats an input value, which might be a secret."""
    parts = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"])
        place = next(
            (
                o
                for n, o in origins.items()
                if name == n or name.startswith(n + ".") or n.startswith(name + ".")
            ),
            "",
        )
        said = (
            "is not a known setting"
            if problem["type"] == "extra_forbidden"
            else f"is wrong: {problem['msg'].removeprefix('Value error, ')}"
        )
        parts.append(f"{name or 'settings'}{f' ({place})' if place else ''} {said}.")
    return " ".join(parts)


MASK = "********"


def public_view(settings: Settings) -> dict[str, object]:
    """The settings as plain JSON values with every secret masked; fit for the ledger and a report."""
    from integrity.address import mask_whole_url

    def plain(value: object, name: str = "") -> object:
        match value:
            case BaseModel():
                names = type(value).model_fields
                return {(names[n].alias or n): plain(getattr(value, n), n) for n in names}
            case SecretStr():
                # Only what is meant to be a URL is shown as one; a password may look like one.
                text = value.get_secret_value()
                return mask_whole_url(text) if name.endswith("url") and "://" in text else MASK
            case Path() | StrEnum():
                return str(value)
            case tuple():
                return [plain(item) for item in value]
            case _:
                return value

    view = plain(settings)
    if not isinstance(view, dict):
        raise TypeError("settings are a table")
    return view
