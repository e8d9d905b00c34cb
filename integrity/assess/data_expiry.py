"""Checks about expiries: of hash fields, and of keys further ahead than Dragonfly keeps."""

from __future__ import annotations

from integrity.assess.census import Census
from integrity.assess.data_words import absent, listed, noticed, plural, seen
from integrity.assess.model import Finding, Severity, not_applicable, passed, unknown
from integrity.assess.subject import Subject
from integrity.strategy import Strategy

_NO_FIELDS = "The source does not know expiries of hash fields."
_FIELD_COMMANDS = frozenset({"hpexpireat", "hsetex"})
"""With one of these a field's expiry can be written."""


def _fields_can_expire(subject: Subject) -> bool:
    return "hpexpiretime" in subject.source_commands


def look_at_field_expiry(subject: Subject) -> Finding:
    """Fields that expire now."""
    if not _fields_can_expire(subject):
        return not_applicable(_NO_FIELDS)
    census = subject.census
    told = census.field_expiry_told
    evidence = {
        "told_by_server": told,
        "seen": census.field_expiry_live,
        "examples": listed(census.field_expiry_examples),
    }
    severity, meaning, remedy = _what_it_means(subject)
    if not census.field_expiry_live and not told:
        if told is None:
            return unknown(
                severity,
                f"The source does not count hashes whose fields expire. Where there are any: {meaning}.",
                remedy,
                **evidence,
            )
        return passed("The source counts no hash whose fields expire.", **evidence)
    counted = (
        f"The source counts {plural(told, 'hash')} whose fields expire"
        if told
        else f"There are fields that expire in {plural(census.field_expiry_live, 'hash')} {seen(census)}"
    )
    return noticed(severity, f"{counted}: {meaning}.", remedy, evidence)


def _what_it_means(subject: Subject) -> tuple[Severity, str, str]:
    """How bad fields that expire are on this road, why, and what to do."""
    if subject.strategy is Strategy.NATIVE:
        return (
            Severity.BLOCKING,
            "Dragonfly cannot read them from a replication stream, and its full synchronisation begins again "
            "without end",
            "Take --strategy copy, which carries them with typed commands; or remove the expiries and write the hashes "
            "anew.",
        )
    if not _FIELD_COMMANDS & subject.target_commands:
        return (
            Severity.BLOCKING,
            "the target does not know such expiries, so the fields would stay for ever",
            "Move to a target that knows them, or remove the expiries (HPERSIST) first.",
        )
    if subject.target_identity.engine == "dragonfly":
        return (
            Severity.WARNING,
            "they are carried with typed commands, more slowly than by DUMP; Dragonfly keeps them in whole seconds, "
            "up to 8.5 years ahead, and its fields expire up to a second early or late",
            "See that no application needs milliseconds there, or HPEXPIRE, HPERSIST or HPTTL, which it does not know.",
        )
    return Severity.INFO, "they are carried and compared", ""


def look_at_former_field_expiry(subject: Subject) -> Finding:
    """Small hashes that are stored as if a field expired although none does any more; only Redis keeps them so."""
    if not _fields_can_expire(subject):
        return not_applicable(_NO_FIELDS)
    if subject.source_identity.engine != "redis":
        return not_applicable(
            f"{subject.source_identity.engine.capitalize()} stores such a hash like any other."
        )
    census = subject.census
    native = subject.strategy is Strategy.NATIVE
    severity = Severity.BLOCKING if native else Severity.INFO
    if not census.encodings and census.keys_looked_at > sum(census.excluded.values()):
        return unknown(
            severity,
            "The user may not ask OBJECT ENCODING, the only thing that tells such a hash.",
            "Give the user +object, or see that no field ever had an expiry.",
        )
    evidence = _former_evidence(census)
    if not census.field_expiry_former:
        return absent(census, "No hash once had, and has no more, fields that expire", **evidence)
    at_least = (
        "at least "
        if census.field_expiry_hashes > census.field_expiry_live + census.field_expiry_former
        else ""
    )
    counted = (
        "Made for fields that expire although none does any more (OBJECT ENCODING listpackex): "
        f"{at_least}{plural(census.field_expiry_former, 'hash')} {seen(census)}"
    )
    if native:
        return noticed(
            Severity.BLOCKING,
            f"{counted}. One is enough: Dragonfly's full synchronisation begins again without end.",
            "Take --strategy copy; or write each of them anew (HGETALL, DEL, HSET), which a restart does not do.",
            evidence,
        )
    return noticed(
        Severity.INFO,
        f"{counted}. A target that does not read that form gets them by typed commands.",
        "",
        evidence,
    )


def _former_evidence(census: Census) -> dict[str, object]:
    return {
        "stored_that_way": census.field_expiry_hashes,
        "looked_into": census.field_expiry_live + census.field_expiry_former,
        "no_field_expires": census.field_expiry_former,
        "examples": listed(census.field_expiry_former_examples),
    }


def look_at_expiry_limit(subject: Subject) -> Finding:
    """Keys that expire later than Dragonfly keeps."""
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("Only Dragonfly limits how far ahead an expiry may lie.")
    census = subject.census
    if not census.beyond_expiry:
        return absent(census, "No key expires in more than 8.5 years", expiries=dict(census.expiries))
    counted = f"Expiring in more than 8.5 years: {plural(census.beyond_expiry, 'key')} {seen(census)}"
    if subject.strategy is Strategy.NATIVE:
        what = (
            "Dragonfly takes these expiries with the first synchronisation, but drops each that is set while it "
            "follows: such a key would have none, until the comparison finds it and the repair sets the longest "
            "that there is"
        )
    else:
        what = (
            "Dragonfly makes 8.5 years (268,435,455 s) of them without an error; the comparison lists each as an "
            "exception under the rule expiry-limit"
        )
    return noticed(
        Severity.WARNING,
        f"{counted}. {what}.",
        "Shorten or remove them on the source if that matters. On Dragonfly an EXPIREAT so far ahead is an error, and "
        "GETEX answers nil.",
        {"keys": census.beyond_expiry, "examples": listed(census.beyond_expiry_examples)},
    )
