"""Checks about the commands that applications have used on the source, by the source's own counts."""

from __future__ import annotations

from typing import Final

from integrity.assess.model import Check, Severity
from integrity.assess.usage_options import look_dropped, look_expiry_range, look_fatal, look_options
from integrity.assess.usage_unknown import look_administration, look_errors, look_subcommands, look_unknown
from integrity.strategy import Strategy

CHECKS: Final = (
    Check("commands.unknown", "Commands that the target does not know", Severity.BLOCKING, look_unknown),
    Check(
        "commands.administration",
        "Administrative commands that the target does not know",
        Severity.WARNING,
        look_administration,
    ),
    Check(
        "commands.subcommands",
        "Subcommands that are not counted, or not told",
        Severity.WARNING,
        look_subcommands,
    ),
    Check("commands.options", "Options that the target does not take", Severity.WARNING, look_options),
    Check("commands.expiry-range", "Expiries further away than 8.5 years", Severity.INFO, look_expiry_range),
    Check("commands.fatal", "Commands that end the target's process", Severity.WARNING, look_fatal),
    Check("commands.errors", "Errors that applications get already", Severity.INFO, look_errors),
    Check(
        "native.dropped-commands",
        "Writes that Dragonfly drops while it replicates",
        Severity.BLOCKING,
        look_dropped,
        strategies=frozenset({Strategy.NATIVE}),
    ),
)
