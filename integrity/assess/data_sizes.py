"""Checks about sizes and heat: values and names that are long, keys that are big, keys that are used most."""

from __future__ import annotations

from typing import Final

from integrity.assess.data_words import absent, human_bytes, listed, noticed, plural, seen
from integrity.assess.model import Finding, Severity, not_applicable, passed
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused, ProtocolError

_REDIS_LIMIT: Final = 512 << 20
"""``proto-max-bulk-len`` where nobody has changed it."""
_DRAGONFLY_LIMIT: Final = 2 << 30
"""``--max_bulk_len`` where nobody has changed it; CONFIG GET does not tell it, and trying costs as much memory."""
_BIG_BYTES: Final = 64 << 20
"""Copying so much takes about a second, and a sync does it again for each change."""
_LONG_NAME: Final = 1024
_FEW: Final = 3
_HOT: Final = 100
"""By OBJECT FREQ; some ten thousands of uses with the default lfu-log-factor."""


def look_at_string_limit(subject: Subject) -> Finding:
    """Strings that are longer than the target takes."""
    census = subject.census
    limit, where = _limit_of_target(subject)
    evidence: dict[str, object] = {"limit_bytes": limit, "limit_from": where}
    over = [fact for fact in census.longest if fact.elements > limit]
    if over:
        at_least = "at least " if len(over) == len(census.longest) else ""
        return noticed(
            Severity.BLOCKING,
            f"Longer than the target takes ({human_bytes(limit)}, {where}): "
            f"{at_least}{plural(len(over), 'string')} {seen(census)}.",
            "Raise the target's limit (proto-max-bulk-len, --max_bulk_len), split the values, or leave the keys out.",
            evidence | {"longest": listed(over)},
        )
    may_hold = [fact for fact in census.big if fact.kind != "string" and fact.bytes > limit]
    if may_hold:
        return noticed(
            Severity.WARNING,
            f"So big that an element may be longer than the target takes ({human_bytes(limit)}, {where}): "
            f"{plural(len(may_hold), 'key')} {seen(census)}. The elements were not looked at.",
            "Look at them, or leave it to the copy, which names each key that is refused.",
            evidence | {"keys": listed(may_hold)},
        )
    longest = census.longest[0].elements if census.longest else 0
    return absent(
        census,
        f"No string is longer than the target takes ({human_bytes(limit)}, {where})",
        **evidence,
        longest_bytes=longest,
    )


def _limit_of_target(subject: Subject) -> tuple[int, str]:
    if subject.target_identity.engine == "dragonfly":
        return _DRAGONFLY_LIMIT, "Dragonfly's default of max_bulk_len"
    try:
        told = [server.config("proto-max-bulk-len") or "" for server in subject.target_servers]
    except (PermissionRefused, ProtocolError):
        told = [""]
    if all(text.isdecimal() for text in told):
        return min(map(int, told)), "proto-max-bulk-len"
    return _REDIS_LIMIT, "the default of proto-max-bulk-len, because it may not be asked"


def look_at_big_keys(subject: Subject) -> Finding:
    """Keys so big that copying one of them takes long."""
    census = subject.census
    if not census.sizes_told:
        kept = "the server does not tell each key's memory use; lengths stand in for it"
    else:
        kept = "by MEMORY USAGE"
    over = [fact for fact in census.big if fact.bytes > _BIG_BYTES]
    evidence: dict[str, object] = {
        "threshold_bytes": _BIG_BYTES,
        "read_in_pieces_from": subject.settings.big_values.threshold_bytes,
        "measured": kept,
        "biggest": listed(over or census.big[:_FEW]),
    }
    if not over:
        return absent(census, f"No key is bigger than {human_bytes(_BIG_BYTES)}", **evidence)
    at_least = "at least " if len(over) == len(census.big) else ""
    return noticed(
        Severity.WARNING,
        f"Bigger than {human_bytes(_BIG_BYTES)}: {at_least}{plural(len(over), 'key')} {seen(census)}, the biggest "
        f"{human_bytes(over[0].bytes)}. They are copied and compared in pieces; one that is written meanwhile is begun "
        "again, and a sync copies it whole for each change. DUMP of one, by other tools, stops its server for seconds.",
        "Split them, move them while they are not written, or leave them out.",
        evidence,
    )


def look_at_hot_keys(subject: Subject) -> Finding:
    """Keys that are used most, where the server counts, and whether one of them is big."""
    census = subject.census
    if not census.hot:
        return not_applicable(census.hot_method or "No key was looked at.")
    hot = [fact for fact in census.hot if fact.heat >= _HOT]
    evidence: dict[str, object] = {"hottest": listed(census.hot[:_FEW]), "method": census.hot_method}
    if not hot:
        return absent(census, f"No key has an OBJECT FREQ of {_HOT} or more", **evidence)
    threshold = subject.settings.big_values.threshold_bytes
    big = [fact for fact in hot if fact.bytes > threshold]
    if big:
        return noticed(
            Severity.WARNING,
            f"Hot and bigger than {human_bytes(threshold)}: {plural(len(big), 'key')} {seen(census)}. If they are "
            "written that often, a sync copies them over and over and may not catch up.",
            "See whether they are written or only read; move them while they are not written, or leave them out.",
            evidence,
        )
    return noticed(
        Severity.INFO,
        f"Hot (OBJECT FREQ {_HOT} or more): {plural(len(hot), 'key')} {seen(census)}, none of them big.",
        "",
        evidence,
    )


def look_at_key_names(subject: Subject) -> Finding:
    """Names so long that they cost."""
    census = subject.census
    longest = census.longest_name
    if longest <= _LONG_NAME:
        return absent(census, f"No key's name is longer than {human_bytes(_LONG_NAME)}", longest_name=longest)
    return noticed(
        Severity.INFO,
        f"The longest name of a key is {human_bytes(longest)}. Names are sent with every command and every announced "
        "change, and stand whole in the ledger.",
        "",
        {"longest_name": longest},
    )


def look_at_emptiness(subject: Subject) -> Finding:
    """Whether there is anything to move."""
    census = subject.census
    left = census.keys_looked_at - sum(census.excluded.values())
    evidence = {"keys": census.keys_present, "excluded": dict(census.excluded)}
    if census.keys_present and left:
        return passed(f"Keys on the source: {census.keys_present:,}.", **evidence)
    if census.keys_looked_at and not census.full:
        summary = f"The rules leave out all {census.keys_looked_at:,} keys that were looked at."
    elif census.keys_looked_at:
        summary = f"The rules leave out all {census.keys_looked_at:,} keys."
    else:
        summary = "The source holds no key in the databases of the run."
    return noticed(
        Severity.WARNING,
        f"{summary} There is nothing to move, and nothing to compare: no verdict can be PASS.",
        "Check the source's URL, --databases and the rules.",
        evidence,
    )
