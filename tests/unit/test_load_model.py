"""The model of a server that the load and its replay share, where no server is needed to tell right from wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hiredis import ReplyError

from tests.load.compare import Kind, compare
from tests.load.environment import Target
from tests.load.journal import Command, Journal, Outcome, Reply, pack
from tests.load.replay import replay
from tests.load.state import SOME_ID, Group, Held, Items, Keyspace, ModelError, Stream, Text, Window
from tests.load.streams import ADD_AND_NOTE
from tests.load.units import MULTI, Branch, branches, settle, transaction

_NOW = (1000, 1010)
_TARGET = Target("blue", 6379, "", "", 1)


def _space(**values: Held) -> Keyspace:
    space = Keyspace()
    space.held = {(0, name.encode()): held for name, held in values.items()}
    return space


# -- units -------------------------------------------------------------------------------------------------------------


def test_what_was_answered_with_an_error_has_done_nothing() -> None:
    space = _space(a=Text(b"1"))

    assert settle(space, 0, [(b"INCR", b"a")], [ReplyError("NOPERM no")], _NOW) == (0, [])

    assert space.held == {(0, b"a"): Text(b"1")}


def test_an_error_that_is_no_refusal_is_a_surprise() -> None:
    done, surprises = settle(
        _space(a=Text(b"1")), 0, [(b"INCR", b"a")], [ReplyError("ERR value is not an integer")], _NOW
    )

    assert (done, len(surprises)) == (0, 1)


def test_an_answer_that_does_not_follow_from_what_was_written_is_a_surprise() -> None:
    done, (surprise,) = settle(_space(a=Text(b"1")), 0, [(b"INCR", b"a")], [3], _NOW)

    assert (done, surprise.expected, surprise.reply) == (1, 2, 3)


def test_of_a_transaction_only_what_was_done_counts() -> None:
    space = _space()
    commands = transaction([(b"SET", b"a", b"1"), (b"SET", b"b", b"2")])
    executed: list[Reply] = [ReplyError("NOPERM no"), b"OK"]
    replies: list[Reply] = [b"OK", b"QUEUED", b"QUEUED", executed]

    assert settle(space, 0, commands, replies, _NOW) == (1, [])

    assert space.held == {(0, b"b"): Text(b"2")}


def test_a_transaction_that_was_refused_as_a_whole_has_done_nothing() -> None:
    space = _space()
    commands = transaction([(b"SET", b"a", b"1"), (b"SET", b"b", b"2")])
    refused = ReplyError("NOPERM no")

    replies: list[Reply] = [b"OK", refused, b"QUEUED", ReplyError("EXECABORT discarded")]
    assert settle(space, 0, commands, replies, _NOW) == (0, [])

    assert space.held == {}


def test_commands_after_a_refused_multi_were_done_one_by_one() -> None:
    space = _space()
    commands = (MULTI, (b"SET", b"a", b"1"), (b"EXEC",))

    assert settle(
        space, 0, commands, [ReplyError("NOPERM no"), b"OK", ReplyError("ERR EXEC without MULTI")], _NOW
    ) == (
        1,
        [],
    )

    assert space.held == {(0, b"a"): Text(b"1")}


def test_a_relative_expiry_counts_from_between_sending_and_answer() -> None:
    space = _space()

    settle(space, 0, [(b"SET", b"a", b"1", b"PX", b"500")], [b"OK"], _NOW)

    assert space.held == {(0, b"a"): Text(b"1", expiry=Window(1500, 1510))}


# -- writes without an answer ------------------------------------------------------------------------------------------


def test_a_write_without_an_answer_leaves_two_states_and_the_model_as_it_was() -> None:
    space = _space(a=Text(b"1"))

    found = branches(space, 0, [(b"RENAME", b"a", b"b")], _NOW)

    assert found == [{(0, b"a"): Text(b"1"), (0, b"b"): None}, {(0, b"a"): None, (0, b"b"): Text(b"1")}]
    assert space.held == {(0, b"a"): Text(b"1")}


def test_a_script_that_stopped_may_have_done_any_of_its_steps() -> None:
    script: Command = (b"EVAL", ADD_AND_NOTE, b"2", b"n", b"l", b"6")

    strict = branches(_space(n=Text(b"1")), 0, [script], _NOW)
    loose = branches(_space(n=Text(b"1")), 0, [script], _NOW, half_done=True)

    neither, both = (
        {(0, b"n"): Text(b"1"), (0, b"l"): None},
        {(0, b"n"): Text(b"7"), (0, b"l"): Items([b"6"])},
    )
    first: Branch = {(0, b"n"): Text(b"7"), (0, b"l"): None}
    assert strict == [neither, both]
    assert first in loose
    assert all(branch in (neither, first, both) for branch in loose)


def test_a_random_member_without_an_answer_may_be_any_of_them() -> None:
    space = Keyspace()
    settle(space, 0, [(b"SADD", b"s", b"x", b"y")], [2], _NOW)

    found = branches(space, 0, [(b"SPOP", b"s")], _NOW)

    assert len(found) == 3


def test_an_entry_whose_id_nobody_learned_may_have_any() -> None:
    (_, after) = branches(Keyspace(), 0, [(b"XADD", b"x", b"*", b"f", b"v")], _NOW)
    held = after[0, b"x"]

    assert isinstance(held, Stream)
    assert SOME_ID in held.entries
    assert list(compare(held, Stream({(5, 1): (b"f", b"v")}, (5, 1)))) == []
    assert [kind for kind, _ in compare(held, Stream({(5, 1): (b"f", b"w")}, (5, 1)))] == [Kind.LOST]


def test_a_log_that_goes_on_with_a_key_after_an_unanswered_write_is_refused(tmp_path: Path) -> None:
    command: Command = (b"INCR", b"load:app-0.0:counter:1")
    with Journal(tmp_path, "app-0") as journal:
        for number, (outcome, replies) in enumerate(
            [(Outcome.UNKNOWN, list[Reply]()), (Outcome.ACKNOWLEDGED, list[Reply]([1]))]
        ):
            journal.intend(number, _TARGET, 0, pack((command,)), (1, 1))
            journal.tell(number, (1, 1), outcome, replies, (2, 2))

    with pytest.raises(ModelError):
        replay(tmp_path)


# -- comparing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "found", "kinds"),
    [
        (Text(b"10"), Text(b"15"), [Kind.DUPLICATED]),
        (Text(b"10"), Text(b"9"), [Kind.LOST]),
        (Text(b"ab"), Text(b"abb"), [Kind.DUPLICATED]),
        (Text(b"ab"), Text(b"xy"), [Kind.LOST]),
        (Text(b"ab"), Items([b"ab"]), [Kind.LOST]),
        (Items([b"a", b"b"]), Items([b"a", b"b", b"b"]), [Kind.DUPLICATED]),
        (Items([b"a", b"b"]), Items([b"a"]), [Kind.LOST]),
        (Items([b"a", b"b"]), Items([b"b", b"a"]), [Kind.LOST]),
        (Items([b"a"]), Items([b"a", b"old"]), [Kind.RESURRECTED]),
        (Stream({(1, 0): (b"f", b"v")}, (1, 0)), Stream({}, (1, 0)), [Kind.LOST]),
        (
            Stream({(1, 0): (b"f", b"v")}, (1, 0)),
            Stream({(1, 0): (b"f", b"v"), (2, 0): (b"f", b"v")}, (2, 0)),
            [Kind.DUPLICATED, Kind.DUPLICATED],
        ),
        (
            Stream({}, (1, 0), {b"g": Group((1, 0), {(1, 0): (b"anna", 1)})}),
            Stream({}, (1, 0), {b"g": Group((1, 0), {(1, 0): (b"anna", 2)})}),
            [Kind.WRONG_GROUP],
        ),
    ],
)
def test_how_a_value_departs_from_what_it_must_be(held: Held, found: Held, kinds: list[Kind]) -> None:
    assert [kind for kind, _ in compare(held, found)] == kinds
    assert list(compare(held, held)) == []
