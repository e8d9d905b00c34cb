"""What a list of ACL rules permits, without a server."""

from __future__ import annotations

import pytest

from integrity.switch.access import Selector, UserRules, WriteCommands, raw, rules_of, text

COMMANDS = WriteCommands(
    frozenset({"set", "del", "lpush", "xgroup|create", "xgroup|destroy", "vadd", "sort"}),
    {
        "write": frozenset({"set", "del", "lpush", "xgroup|create", "xgroup|destroy", "sort"}),
        "string": frozenset({"set"}),
        "dangerous": frozenset({"sort"}),
        "read": frozenset(),
    },
)


@pytest.mark.parametrize(
    ("rules", "permitted"),
    [
        ("", set()),
        ("-@all", set()),
        ("+@all", COMMANDS.names),
        ("+@all -@write", {"vadd"}),
        ("+@all -@write -vadd", set()),
        ("-@write +@all", COMMANDS.names),
        ("-@all +@read +set", {"set"}),
        ("-@all +@read +get", set()),
        ("+@string -set", set()),
        ("-set +@string", {"set"}),
        ("+@all -@dangerous", COMMANDS.names - {"sort"}),
        ("-@all +xgroup", {"xgroup|create", "xgroup|destroy"}),
        ("-@all +xgroup|create", {"xgroup|create"}),
        ("+@write -xgroup|create", {"set", "del", "lpush", "xgroup|destroy", "sort"}),
        ("-@all +SET", {"set"}),
        ("-@all +sort|x", {"sort"}),
        ("-@all +@read -acl setuser +lpush", {"lpush"}),
        ("-@all +@unheard", COMMANDS.names),
        ("allcommands", COMMANDS.names),
    ],
)
def test_rules_permit_what_the_last_of_them_says(rules: str, permitted: set[str]) -> None:
    assert COMMANDS.permitted(rules) == permitted


def test_a_user_may_what_any_of_its_selectors_may() -> None:
    user = UserRules(
        "u", True, "-@all +del", (Selector("-@all +set", "~a", ""), Selector("-@all +get", "~b", ""))
    )
    assert COMMANDS.permitted_to(user) == {"del", "set"}


def test_what_lies_outside_the_category_is_named() -> None:
    assert COMMANDS.outside_category == ("vadd",)


def test_rules_are_cut_where_one_begins() -> None:
    assert rules_of("-@all +acl setuser +config|get -get") == ["-@all", "+acl setuser", "+config|get", "-get"]


def test_a_selector_is_written_as_the_server_takes_it() -> None:
    selector = Selector("-@all +set", "~a:* %R~b", "", "alldbs")
    assert selector.rule() == "(~a:* %R~b alldbs -@all +set)"
    assert selector.rule("-@write", "-vadd").endswith("-@all +set -@write -vadd)")


def test_names_that_are_no_text_survive() -> None:
    assert raw(text(b"caf\xe9\xff")) == b"caf\xe9\xff"
