"""Checks about the commands that applications have used on the source, by the source's own counts."""

from __future__ import annotations

from typing import Final

from integrity.assess.model import Check, Reach, Severity
from integrity.assess.usage_options import look_dropped, look_expiry_range, look_fatal, look_options
from integrity.assess.usage_unknown import look_administration, look_errors, look_subcommands, look_unknown
from integrity.strategy import Strategy

CHECKS: Final = (
    Check(
        "commands.unknown",
        "Commands that the target does not know",
        Severity.BLOCKING,
        look_unknown,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "commands.administration",
        "Administrative commands that the target does not know",
        Severity.WARNING,
        look_administration,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "commands.subcommands",
        "Subcommands that are not counted, or not told",
        Severity.WARNING,
        look_subcommands,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "commands.options",
        "Options that the target does not take",
        Severity.WARNING,
        look_options,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "commands.expiry-range",
        "Expiries further away than 8.5 years",
        Severity.INFO,
        look_expiry_range,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "commands.fatal",
        "Commands that end the target's process",
        Severity.WARNING,
        look_fatal,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "commands.errors",
        "Errors that applications get already",
        Severity.INFO,
        look_errors,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "native.dropped-commands",
        "Writes that Dragonfly drops while it replicates",
        Severity.BLOCKING,
        look_dropped,
        strategies=frozenset({Strategy.NATIVE}),
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
