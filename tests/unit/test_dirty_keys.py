"""Names of changed keys, against a model that is too simple to be wrong: a name is settled only by being proven."""

from __future__ import annotations

from time import monotonic

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from integrity.sync import dirty as dirty_module
from integrity.sync.dirty import DirtyKeys

NAMES = st.sets(st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"]), min_size=1)
ATTEMPTS = 3


class AgainstTheModel(RuleBasedStateMachine):
    """What a follower does in its one thread, in any order.

    The model knows of each name only whether the other side may lack its newest change.  ``looked`` are names whose
    newest change was there to be read when they were last carried over: only those may be proven.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys = DirtyKeys()
        self.open: set[bytes] = set()
        self.taken: dict[bytes, float] = {}
        self.looked: set[bytes] = set()
        self.comparing: list[bytes] = []

    @rule(names=NAMES)
    def announced(self, names: set[bytes]) -> None:
        self.keys.announced(dict.fromkeys(names, monotonic()))
        self.open |= names
        self.looked -= names

    @rule(names=NAMES)
    def suspected(self, names: set[bytes]) -> None:
        self.keys.suspected(names)
        self.open |= names
        self.looked -= names

    @rule(count=st.integers(1, 4))
    def taken_and_put_back(self, count: int) -> None:
        taken = self.keys.take(count)
        assert len(taken) <= count
        self.keys.put_back(taken)

    @rule(count=st.integers(1, 4), meanwhile=NAMES)
    def taken_and_carried(self, count: int, meanwhile: set[bytes]) -> None:
        """Others are found to be suspect while some are carried over, as where two keys have one place."""
        taken = self.keys.take(count)
        self.keys.suspected(meanwhile)
        self.open |= meanwhile
        self.looked |= set(taken)
        self.looked -= meanwhile
        self.keys.carried(taken, monotonic())

    @rule(count=st.integers(1, 4))
    def compare_begins(self, count: int) -> None:
        self.comparing = self.keys.take_unproven(count)
        assert set(self.comparing) <= self.looked

    @rule(equal=st.booleans())
    def compare_ends(self, equal: bool) -> None:
        """As the follower does: what was announced while it was compared is taken in before the result counts."""
        for name in self.comparing:
            if equal:
                self.keys.proven([name])
                if name in self.looked:
                    self.open.discard(name)
            else:
                self.keys.differed([name], ATTEMPTS)
                self.looked.discard(name)
        self.comparing = []

    @rule()
    def stuck_ones_are_tried_again(self) -> None:
        self.keys.retry_stuck()
        assert not self.keys.stuck

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.keys.not_known_to_be_carried() >= self.open

    @invariant()
    def settled_means_that_nothing_is_open(self) -> None:
        if self.keys.is_settled():
            assert self.open <= self.keys.stuck

    @invariant()
    def a_name_is_in_one_place(self) -> None:
        everything = self.keys.not_known_to_be_carried()
        assert len(self.keys) + self.keys.unproven + len(self.keys.stuck - self._others()) == len(everything)

    def _others(self) -> set[bytes]:
        """Names that are stuck, and on their way once more."""
        taken = self.keys.take(1000)
        self.keys.put_back(taken)
        return set(taken) | set(self.keys.take_unproven(1000))


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_oldest_change_tells_the_age_whatever_was_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirty_module, "monotonic", lambda: 100.0)
    keys = DirtyKeys()
    keys.announced({b"old": 90.0, b"newer": 95.0})
    keys.put_back(keys.take(1))
    keys.announced({b"newest": 99.0, b"old": 99.5})
    assert keys.oldest_age() == 10.0
    keys.take(1)
    assert keys.oldest_age() == 5.0


def test_a_key_that_is_announced_again_is_not_compared_before_it_is_carried_again() -> None:
    keys = DirtyKeys()
    keys.announced({b"k": monotonic()})
    keys.carried(keys.take(1), monotonic())
    keys.announced({b"k": monotonic()})
    assert keys.take_unproven(10) == []
    keys.carried(keys.take(1), monotonic())
    assert keys.take_unproven(10) == [b"k"]


def test_a_key_that_keeps_differing_is_given_up_and_counts_anew_once_it_changes() -> None:
    keys = DirtyKeys()

    def differ() -> list[bytes]:
        keys.carried(keys.take(1), monotonic())
        return keys.differed([b"k"], 2)

    keys.announced({b"k": monotonic()})
    assert (differ(), differ()) == ([], [b"k"])
    assert keys.stuck == {b"k"}
    keys.announced({b"k": monotonic()})
    assert keys.stuck == set()
    assert differ() == []


def test_what_is_not_due_yet_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(dirty_module, "monotonic", lambda: clock[0])
    keys = DirtyKeys()
    keys.announced({b"k": 0.0})
    keys.carried(keys.take(1), 5.0)
    assert keys.take_unproven(1) == []
    assert keys.next_due() == 5.0
    clock[0] = 5.0
    assert keys.take_unproven(1) == [b"k"]


def test_forgetting_everything_tells_how_much_it_was() -> None:
    keys = DirtyKeys()
    keys.announced({b"a": 0.0, b"b": 0.0})
    assert keys.clear() == 2
    assert keys.is_settled()
    assert keys.not_known_to_be_carried() == set()
