"""The gates of a cutover: what must hold before blue is fenced.  Each tells its present value, passed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Final

from integrity.assess.gate import look
from integrity.assess.model import Result
from integrity.cluster.members import read_members
from integrity.endpoint import Endpoint, Identity, read_info
from integrity.errors import GreenflyError, PermissionRefused
from integrity.expiry import clock_ms
from integrity.info import number
from integrity.kinds.base import plural
from integrity.ledger import Ledger, models
from integrity.ledger.approvals import standing
from integrity.ledger.naming import operator_name
from integrity.ledger.reviews import CUTOVER_GATE, decisions_in_force
from integrity.ledger.sync_board import SyncStatus
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.phases.sync import fits_both_ways
from integrity.settings import Settings
from integrity.switch.environment import EnvironmentSwitch
from integrity.switch.fence_nodes import fence_of
from integrity.switch.own_user import borrowed
from integrity.switch.sides import Sides, green_url
from integrity.verify.waiving import rely_on_waivers

ALIVE_SECONDS: Final = 5.0
"""How old the sync process's newest sign of life may be."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate and what it says now."""

    name: str
    passed: bool
    value: str
    limit: str
    text: str
    """What it is about; with what to do where it did not pass."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "passed": self.passed,
            "value": self.value,
            "limit": self.limit,
            "text": self.text,
        }


class Gates:
    """Evaluates the gates of one cutover."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        sync_run: models.Run,
        sides: Sides,
        environment: EnvironmentSwitch,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._run = sync_run
        self._sides = sides
        self._environment = environment

    def evaluate(self, status: SyncStatus | None, blue: Identity, green: Identity) -> list[Gate]:
        """Every gate, in a fixed order; a gate that cannot be evaluated has not passed.

        :param status: of the sync process.
        """
        checks: tuple[tuple[str, Callable[[], Gate]], ...] = (
            ("sync", lambda: self._sync(status)),
            ("assessment", lambda: self._assessment(blue, green)),
            ("verdict", lambda: self._verdict(status)),
            ("lag", lambda: self._lag(status)),
            ("clock", self._clock),
            ("headroom", lambda: self._headroom(blue, green)),
            ("fence", lambda: self._fence(blue)),
            ("rollback", lambda: self._rollback_readiness(blue, green)),
            ("environment", self._switch),
            ("approvals", self._approvals),
        )
        gates = []
        for name, check in checks:
            try:
                gates.append(check())
            except GreenflyError as error:
                gates.append(Gate(name, False, "unknown", "", f"It cannot be evaluated: {error}"))
        return gates

    # -- one each ---------------------------------------------------------------------------------------------------

    def _sync(self, status: SyncStatus | None) -> Gate:
        def gate(passed: bool, value: str, text: str) -> Gate:
            return Gate("sync", passed, value, f"alive within {ALIVE_SECONDS:g} s", text)

        if status is None or status.updated_at is None:
            return gate(False, "none", "Nothing follows blue. Start `greenfly sync`.")
        age = (datetime.now(UTC) - status.updated_at).total_seconds()
        value = f"{status.state.value} {status.direction.value} by {status.feed}, {age:.1f} s ago"
        if age > ALIVE_SECONDS or status.state is SyncState.STOPPED:
            return gate(
                False, value, "The sync process gives no sign of life. Start `greenfly sync --resume`."
            )
        if status.direction is not Direction.FORWARD:
            return gate(False, value, "Green is followed already: the applications were moved.")
        recorded = self._run.settings.get("switch")
        kind = recorded.get("kind") if isinstance(recorded, Mapping) else None
        if kind != self._settings.switch.kind:
            return gate(
                False,
                f"{value}; switch.kind is {kind} there",
                "The sync process could not stand in if this one were killed: start it with the same switch settings.",
            )
        return gate(True, value, "A process follows blue, and would stand in if this one were killed.")

    def _assessment(self, blue: Identity, green: Identity) -> Gate:
        limit = "nothing blocks"
        if not self._settings.assess.enabled:
            return Gate("assessment", True, "switched off", limit, "assess.enabled is false: nobody looked.")
        with self._green_to_assess(green) as endpoint:
            seen = look(self._settings, self._ledger, self._sides.blue, endpoint, blue, green)
        keys = (
            f"the keys were assessed {_ago(seen.assessed_at)} ago"
            if seen.assessed_at is not None
            else "the keys were never assessed"
        )
        if seen.open:
            remedies = " ".join(dict.fromkeys(result.remedy for result in seen.open if result.remedy))
            return Gate(
                "assessment",
                False,
                _blocking(seen.open),
                limit,
                f"{remedies} Or let them pass for a while: `greenfly assess waive`. For the keys: {keys}.".strip(),
            )
        waived = f", {_blocking(seen.waived)} waived" if seen.waived else ""
        return Gate(
            "assessment",
            True,
            f"{plural(seen.made, 'check')}{waived}; {keys}",
            limit,
            "What could keep applications from working on green.",
        )

    @contextmanager
    def _green_to_assess(self, green: Identity) -> Iterator[Endpoint]:
        """Green; as a user of Greenfly's own where the fence of an earlier rollback refuses what is to be tried there.

        That fence is lifted before the applications come, and gives back the rights that there were.
        """
        endpoint = self._sides.green
        if fence_of(endpoint, lambda: green).stands():
            try:
                endpoint.require_writable()
            except PermissionRefused:
                with borrowed(endpoint) as own:
                    yield own
                return
        yield endpoint

    def _verdict(self, status: SyncStatus | None) -> Gate:
        most = self._settings.cutover.max_verdict_age_seconds
        limit = f"clean, at most {most:,.0f} s old"
        if status is None or status.clean_since is None:
            reason = status.gap if status is not None else None
            return Gate(
                "verdict", False, f"none ({reason})" if reason else "none", limit, "Wait for a comparison."
            )
        age = (datetime.now(UTC) - status.clean_since).total_seconds()
        if status.stuck and not self._settings.cutover.accept_stuck_keys:
            return Gate(
                "verdict",
                False,
                f"{plural(status.stuck, 'key')} differing",
                limit,
                "They cannot be made equal and are findings of the sync run. Mend them, or set "
                "cutover.accept_stuck_keys.",
            )
        value = f"clean {age:,.0f} s ago"
        relied_on = rely_on_waivers(self._ledger, self._run.id, self._settings, status.clean_since)
        if relied_on.lapsed:
            return Gate(
                "verdict",
                False,
                f"{plural(relied_on.lapsed, 'finding')} no longer let pass",
                limit,
                "The waivers that let them pass were withdrawn, or have expired. Compare again, or waive them anew.",
            )
        if relied_on.passing:
            value += f"; {plural(relied_on.passing, 'finding')} let pass"
        if age > most or status.gap is not None:
            return Gate(
                "verdict", False, value + (f"; {status.gap}" if status.gap else ""), limit, "Compare again."
            )
        return Gate(
            "verdict", True, value, limit, "Every key was compared, and what changed since is followed."
        )

    def _lag(self, status: SyncStatus | None) -> Gate:
        keys, seconds = self._settings.cutover.max_lag_keys, self._settings.cutover.max_lag_seconds
        limit = f"{plural(keys, 'key')}, {seconds:g} s"
        if status is None:
            return Gate("lag", False, "unknown", limit, "Nothing follows blue.")
        value = f"{plural(status.dirty, 'key')}, {status.lag_ms / 1000:.1f} s"
        passed = status.dirty <= keys and status.lag_ms <= seconds * 1000
        return Gate("lag", passed, value, limit, "Changes that are not carried over yet.")

    def _clock(self) -> Gate:
        most = self._settings.cutover.max_clock_skew_ms
        offsets = [
            _offset_ms(member.endpoint)
            for side in (self._sides.blue, self._sides.green)
            for member in read_members(side)
        ]
        apart = max(*offsets, 0.0) - min(*offsets, 0.0)
        return Gate(
            "clock",
            apart <= most,
            f"{apart:,.0f} ms",
            f"{most:g} ms",
            "How far the clocks of blue, green and this machine are apart; keys expire by them.",
        )

    def _headroom(self, blue: Identity, green: Identity) -> Gate:
        least = self._settings.cutover.min_headroom
        limit = f"{least:.0%} free"
        text, used = "Free memory on green.", _used(green.used_memory, green.max_memory)
        if green.is_cluster:
            # It is full as soon as one of its nodes is.
            where, used = max(_memory_used(self._sides.green).items(), key=lambda node: node[1] or 0.0)
            text = f"Free memory on green's fullest node, {where}."
        if used is None:
            return Gate("headroom", True, "green has no memory limit", limit, text)
        return Gate("headroom", 1 - used >= least, f"{1 - used:.0%} free", limit, text)

    def _fence(self, blue: Identity) -> Gate:
        moving = sum(shard.slots_moving for shard in blue.shards)
        if moving:
            return Gate(
                "fence",
                False,
                f"{moving:,} slots are moving",
                "possible",
                "Wait until resharding has ended: blue's nodes would refuse to take each other's keys half-way.",
            )
        fence = fence_of(self._sides.blue, lambda: blue, keep_users=self._settings.cutover.keep_users)
        probe = fence.probe()
        if probe.already_fenced:
            return Gate(
                "fence", False, "blue is fenced", "possible", "Lift the fence that stands there first."
            )
        if probe.method is None or not probe.pause.possible:
            problem = probe.acl if probe.method is None else probe.pause
            return Gate(
                "fence", False, "not possible", "possible", f"{problem.reason} {problem.remedy}".strip()
            )
        if self._settings.cutover.fallback and not probe.greenfly_can_write:
            return Gate(
                "fence",
                False,
                probe.method,
                "acl",
                f"Behind this fence Greenfly cannot carry green's changes back: {probe.acl.reason} Allow ACL, or set "
                "cutover.fallback to false.",
            )
        users = ", ".join(probe.users) or "nobody"
        if probe.nodes > 1:
            users += f", on {probe.nodes} nodes"
        return Gate(
            "fence", True, f"{probe.method}: {users}", "possible", "Who will be refused to write to blue."
        )

    def _rollback_readiness(self, blue: Identity, green: Identity) -> Gate:
        if not self._settings.cutover.fallback:
            return Gate(
                "rollback",
                True,
                "no fall-back",
                "",
                "cutover.fallback is false: a rollback loses later writes.",
            )
        problems = []
        if not fits_both_ways(self._settings):
            problems.append("rules leave keys out or rename them, which has no way back")
        keep_users = self._settings.cutover.keep_users
        probe = fence_of(self._sides.green, lambda: green, keep_users=keep_users).probe()
        if probe.method is None:
            problems.append(f"green could not be fenced: {probe.acl.reason}")
        problems += [f"{node} has less than 5 % of its memory left" for node in _full(self._sides.blue)]
        if problems:
            text = f"A rollback would not work: {'; '.join(problems)}."
            return Gate("rollback", False, plural(len(problems), "problem"), "ready", text)
        return Gate(
            "rollback", True, "ready", "ready", "Green can be fenced, and its changes carried back to blue."
        )

    def _switch(self) -> Gate:
        switch, wanted = self._settings.switch, green_url(self._settings)
        value = self._environment.read().values.get(switch.variable)
        name = self._environment.name
        if value is None:
            self._environment.check({switch.variable: wanted, switch.phase_variable: "green"})
            return Gate("environment", True, f"{name}: not set", "not set", f"{switch.variable} says blue.")
        same = "green already" if value == wanted else "something else"
        return Gate(
            "environment",
            False,
            f"{name}: {same}",
            "not set",
            f"{switch.variable} is set, so applications do not follow {switch.fallback_variable}. Remove it, or roll "
            "back first.",
        )

    def _approvals(self) -> Gate:
        cutover = self._settings.cutover
        needed = cutover.approvals
        decisions = decisions_in_force(self._ledger.engine, self._run.id)
        at = standing(decisions, separate=cutover.separate_approver, requester=operator_name())
        limit = f"{needed} needed"
        if at.broken_by is not None:  # Also after a rejection, unless that came later.
            return Gate("approvals", True, f"break-glass by {at.broken_by}", limit, "Passed in an emergency.")
        if at.rejected_by is not None:
            return Gate("approvals", False, f"rejected by {at.rejected_by}", limit, "Ask again.")
        value = ", ".join(at.approvers) or "none"
        return Gate(
            "approvals",
            len(at.approvers) >= needed,
            value,
            limit,
            f"Who agreed (`greenfly approve {self._run.id} --gate {CUTOVER_GATE}`).",
        )


def _full(endpoint: Endpoint) -> list[str]:
    """The servers of one side that have less than 5 % of their memory left."""
    return [node for node, used in _memory_used(endpoint).items() if used is not None and used > 0.95]


def _memory_used(endpoint: Endpoint) -> dict[str, float | None]:
    """Which part of its memory each server of one side uses; None where it has no limit."""
    found = {}
    for member in read_members(endpoint):
        with member.endpoint.connect("gate") as connection:
            info = read_info(connection, b"memory")
        used, most = number(info.get("used_memory")), number(info.get("maxmemory"))
        found[str(member.endpoint)] = _used(used, most)
    return found


def _used(used: int, most: int) -> float | None:
    return used / most if most else None


def _offset_ms(endpoint: Endpoint) -> float:
    """How far the server's clock is ahead of this machine's, half a round trip taken off."""
    with endpoint.connect("gate") as connection:
        before = time()
        reply = connection.command(b"TIME")
        after = time()
    return clock_ms(reply) - (before + after) / 2 * 1000


def _blocking(results: Sequence[Result]) -> str:
    """Checks with what they found by name."""
    return ", ".join(
        f"{result.check} ({', '.join(result.items[:10])}{', …' if len(result.items) > 10 else ''})"
        if result.items
        else result.check
        for result in results
    )


def _ago(at: datetime) -> str:
    minutes = (datetime.now(UTC) - at).total_seconds() / 60
    if minutes < 90:
        return f"{minutes:,.0f} min"
    return f"{minutes / 60:,.0f} h" if minutes < 72 * 60 else f"{minutes / 60 / 24:,.0f} days"


def refused(gates: Sequence[Gate]) -> list[Gate]:
    """Those that did not pass."""
    return [gate for gate in gates if not gate.passed]
