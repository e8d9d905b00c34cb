"""What every worker of a phase has to do alike: recorded by the owner of the run, read by the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pydantic import ValidationError

from integrity.errors import LedgerError, Refused
from integrity.phases.work import WorkContext
from integrity.section import Section
from integrity.settings import (
    BigValueSettings,
    CopySettings,
    RuleSettings,
    Settings,
    ThrottleSettings,
    VerifySettings,
)
from integrity.version import __version__

_SECTIONS: Final[Mapping[str, type[Section]]] = {
    "copying": CopySettings,
    "big_values": BigValueSettings,
    "verify": VerifySettings,
    "rules": RuleSettings,
    "throttle": ThrottleSettings,
}
"""Tables of the settings that decide what is done with a key; none of them holds a secret."""


@dataclass(frozen=True, slots=True)
class SharedContext:
    """What the owner of the run decided."""

    version: str
    source_run_id: str
    """Of the server that is read: a worker that reaches another one does nothing."""
    target_run_id: str
    databases: tuple[int, ...]
    field_expiries: bool
    batch_keys: int
    lease_seconds: float
    reconnect_seconds: float
    sections: Mapping[str, object]

    @classmethod
    def of(cls, context: WorkContext) -> Self:
        """What the owner knows."""
        settings = context.settings
        return cls(
            __version__,
            context.source_identity.run_id,
            context.target_identity.run_id,
            context.databases,
            context.field_expiries,
            context.batch_keys,
            settings.lease_seconds,
            settings.reconnect_seconds,
            {name: getattr(settings, name).model_dump(mode="json", by_alias=True) for name in _SECTIONS},
        )

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "version": self.version,
            "source_run_id": self.source_run_id,
            "target_run_id": self.target_run_id,
            "databases": list(self.databases),
            "field_expiries": self.field_expiries,
            "batch_keys": self.batch_keys,
            "lease_seconds": self.lease_seconds,
            "reconnect_seconds": self.reconnect_seconds,
            "sections": dict(self.sections),
        }

    @classmethod
    def read(cls, told: Mapping[str, object]) -> Self:
        """
        :raises Refused: another version of Greenfly recorded it.
        :raises LedgerError: it is not what :meth:`to_dict` gives.
        """
        if told.get("version") != __version__:
            raise Refused(
                f"The run is Greenfly {told.get('version')}'s, and this worker is {__version__}.",
                "Install the same version on every machine, then --resume.",
            )
        databases, sections = told.get("databases"), told.get("sections")
        if not isinstance(databases, Sequence) or not isinstance(sections, Mapping):
            raise _not_understood()
        try:
            return cls(
                str(told["version"]),
                str(told["source_run_id"]),
                str(told["target_run_id"]),
                tuple(int(number) for number in databases),
                bool(told["field_expiries"]),
                int(str(told["batch_keys"])),
                float(str(told["lease_seconds"])),
                float(str(told["reconnect_seconds"])),
                sections,
            )
        except (KeyError, ValueError) as error:
            raise _not_understood() from error

    def over(self, settings: Settings) -> Settings:
        """A worker's own *settings* (its servers, its passwords), with what the owner decided over them.

        :raises LedgerError: it is not understood.
        """
        try:
            decided: dict[str, object] = {
                name: kind.model_validate(self.sections[name]) for name, kind in _SECTIONS.items()
            }
        except (KeyError, ValidationError) as error:
            raise _not_understood() from error
        decided |= {"lease_seconds": self.lease_seconds, "reconnect_seconds": self.reconnect_seconds}
        return settings.model_copy(update=decided)


def _not_understood() -> LedgerError:
    return LedgerError(
        "What the ledger says about the shared ranges is not understood.",
        "Use the same version of Greenfly on every machine.",
    )
