"""How a census was taken, in words for people."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Course:
    """How it went."""

    whole: set[int] = field(default_factory=set)
    """Databases that were read from end to end."""
    out_of_time: bool = False
    anywhere: bool = True
    """The server was asked for random places of its hash order."""
    masters: int = 0
    """Of the cluster whose slots were listed; 0 for a single server."""
    refused: bool = False
    """It did not take such cursors."""
    seconds: float = 0.0
    """After which a sample ends."""


def method_of(course: Course, *, sampled: bool, full: bool, looked_at: int, present: int, unseen: int) -> str:
    """How the keys were chosen, and what may have escaped.

    :param unseen: keys that a kind may have without being seen, with 95 % certainty.
    """
    if full:
        why = " (no more than assess.sample_keys)" if sampled else ""
        return f"Every key was looked at{why}; what was written meanwhile may be counted twice or not at all."
    if not sampled:
        return f"{looked_at:,} of {present:,} keys were looked at; the walk did not come to its end."
    share = looked_at / present if present else 0.0
    if course.masters:
        ended = f"; assess.sample_seconds ({course.seconds:g} s) ended it" if course.out_of_time else ""
        return (
            f"A sample, {looked_at:,} of {present:,} keys ({share:.2%}): slots from random ones on, over all "
            f"{course.masters} masters{ended}. Keys with one hash tag share a slot and are looked at together. A kind "
            f"of key of which none was seen may have up to {unseen:,} keys all the same (with 95 % certainty, where "
            "tags do not gather them), and the biggest and hottest keys may be others."
        )
    places = (
        "stretches at random places of the hash order"
        if course.anywhere and not course.refused
        else "the first keys of the hash order, which does not depend on their names"
    )
    refused = " (the server takes no other cursors)" if course.refused else ""
    ended = f"; assess.sample_seconds ({course.seconds:g} s) ended it" if course.out_of_time else ""
    return (
        f"A sample, {looked_at:,} of {present:,} keys ({share:.2%}): {places}{refused}, each database in proportion to "
        f"its keys{ended}. A kind of key of which none was seen may have up to {unseen:,} keys all the same "
        "(with 95 % certainty), and the biggest and hottest keys may be others."
    )


def hot_method_of(policy: str, engine: str, *, counted: bool, full: bool) -> str:
    """How heat was told, or why it could not be.

    :param policy: ``maxmemory-policy``; empty where it is not told.
    """
    if counted:
        where = "of every key" if full else "of the keys of the sample"
        return f"OBJECT FREQ {where} (maxmemory-policy is {policy}): a logarithmic count that fades, 255 at most."
    if engine == "dragonfly":
        return "Dragonfly tells no uses of single keys."
    why = f"maxmemory-policy is {policy}" if policy else "the server does not tell its maxmemory-policy"
    return (
        f"Unknown: {why}, and only the lfu policies count uses. MONITOR is not used, because it can halve the speed of "
        "the server."
    )
