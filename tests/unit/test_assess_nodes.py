"""What the nodes of a cluster tell, put together: counts added up, the worst finding kept, none passed over."""

from __future__ import annotations

from threading import Event

from integrity.assess.background import meanwhile
from integrity.assess.commands import used_commands
from integrity.assess.merged_info import merged_info
from integrity.assess.model import Finding, Outcome, Severity, found, passed, unknown
from integrity.assess.node_by_node import merged
from integrity.census.plan import Stretch
from integrity.progress import Progress, Silent


def test_counts_are_added_up_and_only_what_all_tell_alike_is_kept() -> None:
    one = {
        "cmdstat_get": "calls=2,usec=9,usec_per_call=4.5,rejected_calls=0,failed_calls=1",
        "db0": "keys=3,expires=1,avg_ttl=0",
        "connected_clients": "4",
        "instantaneous_input_kbps": "0.25",
        "uptime_in_seconds": "90",
        "maxmemory_policy": "noeviction",
        "redis_version": "7.0.15",
    }
    other = one | {
        "cmdstat_get": "calls=5,usec=1,usec_per_call=0.2,rejected_calls=1,failed_calls=0",
        "cmdstat_lcs": "calls=1,usec=1,usec_per_call=1.00",
        "uptime_in_seconds": "30",
        "maxmemory_policy": "allkeys-lru",
    }

    info = merged_info([one, other])

    used = {use.name: (use.calls, use.failed, use.rejected) for use in used_commands(info)}
    assert used == {"get": (7, 1, 1), "lcs": (1, 0, 0)}
    assert info["db0"].startswith("keys=6,expires=2")
    assert (info["connected_clients"], info["instantaneous_input_kbps"]) == ("8", "0.5")
    assert (info["uptime_in_seconds"], info["redis_version"]) == ("30", "7.0.15")
    assert "maxmemory_policy" not in info
    assert merged_info([one]) == one


def test_the_worst_of_the_nodes_counts_and_all_of_them_are_in_the_evidence() -> None:
    bad = found(Severity.BLOCKING, "No room.", "Make some.", items=("a",), free=1)
    worse = found(Severity.BLOCKING, "No room at all.", "Make some.", free=0)
    doubtful = unknown(Severity.BLOCKING, "Not told.")
    mild = found(Severity.WARNING, "Little room.", "", items=("b",))

    whole = merged([("one", bad), ("two", doubtful), ("three", mild), ("four", passed("Room."))])

    assert (whole.outcome, whole.severity, whole.items) == (Outcome.FOUND, Severity.BLOCKING, ("a",))
    assert "one" in whole.summary
    assert "three" not in whole.summary
    nodes = whole.evidence["nodes"]
    assert isinstance(nodes, dict)
    assert {node: facts["outcome"] for node, facts in nodes.items()} == {
        "one": "found",
        "two": "unknown",
        "three": "found",
        "four": "passed",
    }
    # A waiver for an item does not cover a node where all of it is bad.
    assert merged([("one", bad), ("two", worse)]).items == ("a", "node two")


def test_what_is_not_known_of_one_node_is_not_known_of_the_whole() -> None:
    findings: list[tuple[str, Finding]] = [
        ("one", unknown(Severity.BLOCKING, "Not told.")),
        ("two", passed("All is well.")),
        ("three", found(Severity.WARNING, "Odd.", "")),
    ]

    assert merged(findings).outcome is Outcome.UNKNOWN


def test_what_goes_on_beside_is_ended_with_the_block() -> None:
    begun, said = Event(), []

    def work(progress: Progress) -> str:
        while True:
            progress.show("on")
            begun.set()

    class Shown(Silent):
        def show(self, text: str) -> None:
            said.append(text)

    with meanwhile(work, Shown()):
        assert begun.wait(10)
    with meanwhile(lambda progress: progress.say("done"), Shown()) as other:
        assert other.result() is None
    assert not said


def test_a_stretch_inside_a_slot_goes_on_at_once() -> None:
    assert not Stretch(0, cursor=16383).inside_a_slot
    assert Stretch(0, cursor=16384 + 7).inside_a_slot
