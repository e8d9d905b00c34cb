"""A cutover or rollback of many nodes whose conductor is killed at a record."""

from __future__ import annotations

from typing import Final

from tests.faults.conductor_process import Order
from tests.faults.moved_cluster import Moved, Side
from tests.faults.test_live_kills import Kind, goes_forward, number_of

LEASE: Final = 1.0
"""Seconds after which the sync process takes over."""


def kill(app: Moved, kind: Kind, call: str) -> None:
    """Kill whoever conducts at a record; the sync process ends the operation, or undoes it."""
    old: Side = "blue" if kind == "cutover" else "green"
    new: Side = "green" if kind == "cutover" else "blue"
    app.move(old)
    ended = app.do(Order(kind, kill_at=number_of(kind, call), lease_seconds=LEASE))
    assert (ended.returncode, ended.records[-1]) == (-9, call), app.what_was_said()
    app.wait_until_ended()
    forward = goes_forward(kind, call)
    app.moves += forward
    assert app.says() == (new if forward else old), f"{kind} {call}{app.what_was_said()}"
    app.assert_legal()
