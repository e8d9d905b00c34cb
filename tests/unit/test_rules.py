"""Rules: what a page keeps and under which rule the rest is counted, where keys go and where they can come from."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenfly.commands.options import rule_overrides
from integrity.errors import ConfigurationError, LedgerError
from integrity.rules import Rules, Selection
from integrity.settings import RuleSettings, Settings, load_settings, public_view
from tests.cli import Greenfly
from tests.inprocess import between, run_here


def rules(**table: object) -> Rules:
    return Rules.of(RuleSettings.model_validate(table))


def kept(found: Rules, *keys: bytes) -> list[bytes]:
    return [keys[position] for position in found.select(keys, [], []).kept]


def renames(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": old, "to": new} for old, new in pairs]


# -- selection ---------------------------------------------------------------------------------------------------------


def test_without_rules_everything_is_kept_and_nothing_is_asked_for() -> None:
    found = rules()

    assert found.selects_all
    assert found.maps_nothing
    assert not found.merges
    assert (found.needs_types, found.needs_sizes) == (False, False)
    assert found.select([b"a", b"b"], [], []) == Selection([0, 1], {})
    assert found.selects(b"a") is None
    assert found.describe() == {}


@pytest.mark.parametrize(
    ("table", "types", "sizes"),
    [
        ({"include": ["a"]}, False, False),
        ({"exclude": ["a"]}, False, False),
        ({"include_types": ["hash"]}, True, False),
        ({"exclude_types": ["hash"]}, True, False),
        ({"min_bytes": 1}, False, True),
        ({"max_bytes": 1}, False, True),
    ],
    ids=str,
)
def test_each_rule_asks_only_for_what_it_needs(table: Mapping[str, object], types: bool, sizes: bool) -> None:
    found = rules(**table)

    assert not found.selects_all
    assert found.maps_nothing
    assert (found.needs_types, found.needs_sizes) == (types, sizes)


def test_every_key_left_out_is_counted_under_the_first_rule_that_does_so() -> None:
    found = rules(
        include=["user:*", "cart:*"],
        exclude=["*:tmp", "user:1*"],
        exclude_types=["stream"],
        min_bytes=50,
        max_bytes="1KB",
    )
    page = [
        (b"user:2", b"hash", 100),  # kept
        (b"other", b"stream", 5000),  # include, before all others
        (b"user:1:tmp", b"stream", 10),  # the first pattern of the two
        (b"user:17", b"stream", 10),
        (b"cart:3", b"stream", 10),
        (b"cart:4", b"hash", 49),
        (b"cart:5", b"hash", 1001),
        (b"cart:6", b"hash", 1000),  # kept: both limits are within
        (b"cart:7", b"hash", 50),  # kept
    ]

    found_page = found.select(*zip(*page, strict=True))

    assert found_page.kept == [0, 7, 8]
    assert found_page.excluded == {
        "include": 1,
        "exclude *:tmp": 1,
        "exclude user:1*": 1,
        "type stream": 1,
        "min_bytes": 1,
        "max_bytes": 1,
    }


def test_types_are_named_as_type_names_them_whatever_the_case() -> None:
    only = rules(include_types=["Hash", "json"])

    assert only.selects(b"k", b"hash") is None
    assert only.selects(b"k", b"ReJSON-RL") is None
    assert only.selects(b"k", b"string") == "type string"
    assert rules(exclude_types=["rejson-rl"]).selects(b"k", b"ReJSON-RL") == "type ReJSON-RL"
    assert rules(exclude_types=["json"]).selects(b"k", b"ReJSON-RL") == "type ReJSON-RL"


def test_what_the_server_did_not_tell_leaves_no_key_out() -> None:
    found = rules(include_types=["hash"], min_bytes=100)

    assert found.select([b"gone", b"unasked"], [b"none", b"hash"], [0, 0]) == Selection([0, 1], {})


@pytest.mark.parametrize("table", [{"include_types": ["hash"]}, {"max_bytes": 10}], ids=str)
def test_a_page_without_what_the_rules_need_is_an_error_and_not_a_selection(
    table: Mapping[str, object],
) -> None:
    with pytest.raises(ValueError, match="every key"):
        rules(**table).select([b"a", b"b"], [b"hash"], [1])


names = st.text("abc:", min_size=1, max_size=4).map(str.encode)
begins = st.lists(st.text("abc:", min_size=1, max_size=2), max_size=3, unique=True)
kinds = st.sampled_from(["string", "hash", "stream"])


@given(
    st.lists(st.tuples(names, kinds.map(str.encode), st.integers(1, 20)), max_size=20),
    begins,
    begins,
    st.sets(kinds, max_size=2),
    st.none() | st.integers(1, 10),
    st.none() | st.integers(11, 20),
)
def test_a_page_is_its_keys_one_by_one(
    page: list[tuple[bytes, bytes, int]],
    include: list[str],
    exclude: list[str],
    types: set[str],
    low: int | None,
    high: int | None,
) -> None:
    exclude = [text for text in exclude if text not in include]
    found = rules(
        include=[f"{text}*" for text in include],
        exclude=[f"{text}*" for text in exclude],
        exclude_types=sorted(types),
        min_bytes=low,
        max_bytes=high,
    )

    def expected(key: bytes, kind: bytes, size: int) -> str | None:
        name = key.decode()
        if include and not name.startswith(tuple(include)):
            return "include"
        for text in exclude:
            if name.startswith(text):
                return f"exclude {text}*"
        if kind.decode() in types:
            return f"type {kind.decode()}"
        if low is not None and size < low:
            return "min_bytes"
        return "max_bytes" if high is not None and size > high else None

    wanted = [expected(*row) for row in page]

    selection = found.select([row[0] for row in page], [row[1] for row in page], [row[2] for row in page])

    assert [found.selects(*row) for row in page] == wanted
    assert selection.kept == [position for position, rule in enumerate(wanted) if rule is None]
    assert selection.excluded == Counter(rule for rule in wanted if rule is not None)


# -- patterns as text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matched", "unmatched"),
    [
        (r"a\x00*", b"a\x00z", b"a0z"),
        (r"\xffk", b"\xffk", b"k"),
        (r"a\x2a", b"a*", b"ab"),  # an asterisk, not a wildcard
        (r"a\x2Cb", b"a,b", b"a;b"),
        (r"\\x41", rb"\x41", b"A"),
        (r"[\x80-\xff]", b"\x90", b"\x7f"),
        (r"[\x5d\x5e]", b"]", b"a"),
        (r"[\x2d-\x2f]", b".", b","),
        ("é", "é".encode(), b"\xe9"),
        ("??", "é".encode(), b"\xe9"),
        ("a*c", b"a\n\nc", b"a\n\nc\n"),
        ("[a\\", b"\\", b"["),
        ("k\\", b"k\\", b"k"),
    ],
)
def test_text_becomes_the_bytes_that_it_writes(pattern: str, matched: bytes, unmatched: bytes) -> None:
    assert kept(rules(include=[pattern]), matched, unmatched) == [matched]


def test_a_pattern_full_of_stars_stays_fast() -> None:
    began = time.process_time()

    assert not kept(rules(include=["*a" * 400 + "b*c"]), b"a" * 20_000)

    assert time.process_time() - began < 2


# -- databases ---------------------------------------------------------------------------------------------------------


def test_databases_that_are_not_mapped_keep_their_number() -> None:
    found = rules(databases={"1": 0, "4": 7})

    assert [found.target_database(number) for number in (0, 1, 2, 4)] == [0, 0, 2, 7]
    assert found.source_databases(0, [0, 1, 2, 4]) == [0, 1]
    assert found.source_databases(1, [0, 1, 2, 4]) == []
    assert found.source_databases(7, [1, 4, 7]) == [4, 7]
    assert found.target_databases([0, 1, 2, 4]) == [0, 2, 7]
    assert not found.maps_nothing
    assert found.selects_all


@given(st.dictionaries(st.integers(0, 5), st.integers(0, 5), max_size=5), st.sets(st.integers(0, 5)))
def test_merging_databases_is_known(mapping: dict[int, int], present: set[int]) -> None:
    found = rules(databases=mapping)

    def merge(numbers: Sequence[int]) -> bool:
        return any(
            mapping.get(a, a) == mapping.get(b, b) for a, b in itertools.combinations(sorted(numbers), 2)
        )

    assert found.merges == merge(range(7))
    assert found.merges_over(present) == merge(sorted(present))
    for target in range(6):
        assert found.source_databases(target, sorted(present)) == [
            number for number in sorted(present) if mapping.get(number, number) == target
        ]


# -- names -------------------------------------------------------------------------------------------------------------

ALL_KEYS = ["".join(letters) for length in range(7) for letters in itertools.product("ab", repeat=length)]


@st.composite
def rename_lists(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Renames of which each can apply."""
    pairs = draw(
        st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("ab", max_size=3)), max_size=4)
    )
    used: list[tuple[str, str]] = []
    for old, new in pairs:
        if not any(old.startswith(earlier) for earlier, _ in used):
            used.append((old, new))
    return used


def renamed(key: str, pairs: Sequence[tuple[str, str]]) -> str:
    return next((new + key[len(old) :] for old, new in pairs if key.startswith(old)), key)


@given(rename_lists())
def test_the_way_back_finds_every_key_that_could_have_come(pairs: list[tuple[str, str]]) -> None:
    found = rules(rename=renames(*pairs))
    came_from: dict[str, list[str]] = {}
    for key in ALL_KEYS:
        came_from.setdefault(renamed(key, pairs), []).append(key)
        assert found.rename(key.encode()) == renamed(key, pairs).encode()
    assert found.rename_all([key.encode() for key in ALL_KEYS]) == [
        renamed(key, pairs).encode() for key in ALL_KEYS
    ]

    for key in ALL_KEYS:
        originals = [name.decode() for name in found.originals(key.encode())]
        assert len(set(originals)) == len(originals)
        assert sorted(name for name in originals if len(name) < 7) == sorted(came_from.get(key, []))
        assert all(renamed(name, pairs) == key for name in originals)

    collides = any(len(names) > 1 for names in came_from.values())
    assert found.merges == found.merges_over([3]) == collides


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(max_size=3)), max_size=4),
    st.binary(max_size=6),
)
def test_any_bytes_can_be_renamed_and_found_again(pairs: list[tuple[bytes, bytes]], key: bytes) -> None:
    def text(data: bytes) -> str:
        return "".join(f"\\x{byte:02x}" for byte in data)

    used: list[tuple[bytes, bytes]] = []
    for old, new in pairs:
        if not any(old.startswith(earlier) for earlier, _ in used):
            used.append((old, new))
    found = rules(rename=renames(*((text(old), text(new)) for old, new in used)))

    for name in (key, *(old + key for old, _ in used)):
        assert name in found.originals(found.rename(name))
    for name in (key, *(new + key for _, new in used)):
        assert all(found.rename(original) == name for original in found.originals(name))


def test_the_first_rename_that_fits_counts() -> None:
    found = rules(rename=renames(("a:b:", "x:"), ("a:", "y:"), (r"App\\Models:", "m:"), ("tmp:", "")))

    assert found.rename_all([b"a:b:1", b"a:1", rb"App\Models:1", b"tmp:1", b"b:a:1"]) == [
        b"x:1",
        b"y:1",
        b"m:1",
        b"1",
        b"b:a:1",
    ]
    assert found.originals(b"a:1") == [b"tmp:a:1"]  # a key with this name goes elsewhere


@pytest.mark.parametrize(
    ("pairs", "merges"),
    [
        ([("old:", "new:")], True),  # the source may hold new:1 already
        ([("a:", "b:"), ("b:", "a:")], False),
        ([("a:", "c:"), ("b:", "c:")], True),
        ([("a:", "a:b:")], False),
        ([("a:", "a:")], False),
        ([("a:", "")], True),
    ],
)
def test_renames_that_can_meet_are_known(pairs: list[tuple[str, str]], merges: bool) -> None:
    assert rules(rename=renames(*pairs)).merges is merges


def test_all_places_that_go_to_one_place_are_told() -> None:
    found = rules(databases={1: 0}, rename=renames(("old:", "new:")))

    assert found.sources(0, b"new:1", [0, 1, 2]) == [
        (0, b"new:1"),
        (0, b"old:1"),
        (1, b"new:1"),
        (1, b"old:1"),
    ]
    assert found.sources(0, b"old:1", [0, 1]) == []
    assert found.sources(1, b"k", [0, 1]) == []


# -- the record --------------------------------------------------------------------------------------------------------

FULL: dict[str, object] = {
    "include": ["user:*", "\\x00é*"],
    "exclude": ["*[^a-z]", "a,b"],
    "include_types": ["hash", "json"],
    "exclude_types": ["stream"],
    "min_bytes": "1KB",
    "max_bytes": "1.5MiB",
    "databases": {"1": 0, "2": 0},
    "rename": [{"from": "old:", "to": "new:"}, {"from": "\\xff", "to": ""}],
}


@pytest.mark.parametrize("table", [{}, FULL], ids=["none", "all"])
def test_what_a_run_records_gives_the_same_rules_back(table: dict[str, object]) -> None:
    settings = Settings.model_validate({"rules": table})
    found = Rules.of(settings.rules)

    recorded = json.loads(json.dumps(public_view(settings)))["rules"]

    assert recorded == json.loads(json.dumps(found.to_json()))
    again = Rules.from_recorded(recorded)
    assert again == found
    assert again.settings == settings.rules
    assert again.describe() == found.describe()
    assert Rules.from_recorded(None) == rules()
    assert (found == rules()) is (not table)


def test_a_description_holds_only_what_is_set() -> None:
    assert rules(**FULL).describe() == FULL | {"min_bytes": 1000, "max_bytes": 1_572_864}
    assert rules(max_bytes=5).describe() == {"max_bytes": 5}


@pytest.mark.parametrize("recorded", [{"speed": 1}, "all", {"include": [""]}, []], ids=repr)
def test_a_record_that_is_not_understood_is_refused(recorded: object) -> None:
    with pytest.raises(LedgerError):
        Rules.from_recorded(recorded)


# -- settings ----------------------------------------------------------------------------------------------------------


def refusal(table: Mapping[str, object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"rules": table}, environ={})
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "name", "why"),
    [
        ({"include": ["a", ""]}, "rules.include.1", "empty"),
        ({"exclude": [r"\xg0"]}, "rules.exclude.0", "hexadecimal"),
        ({"exclude": ["a\\x"]}, "rules.exclude.0", "hexadecimal"),
        ({"include": [r"[a-\xff]"]}, "rules.include.0", "two ranges"),
        ({"include": ["a" * 1001]}, "rules.include.0", "1000"),
        ({"include": "user:*"}, "rules.include", "tuple"),
        ({"include": ["a*"], "exclude": ["a*"]}, "rules", "same pattern"),
        ({"include_types": ["hash"], "exclude_types": ["Hash"]}, "rules", "same type"),
        ({"include_types": [""]}, "rules.include_types.0", "at least 1"),
        ({"min_bytes": "2KB", "max_bytes": "1KiB"}, "rules", "min_bytes is more than max_bytes"),
        ({"max_bytes": 0}, "rules.max_bytes", "greater than"),
        ({"max_bytes": "-1"}, "rules.max_bytes", "a size is"),
        ({"max_bytes": "10 parsecs"}, "rules.max_bytes", "a size is"),
        ({"max_bytes": "0.5"}, "rules.max_bytes", "whole number"),
        ({"databases": {"1": 0, "01": 2}}, "rules.databases", "database 1 is mapped twice"),
        ({"databases": ["1=0", "1=0"]}, "rules.databases", "database 1 is mapped twice"),
        ({"databases": ["-1=0"]}, "rules.databases", "greater than or equal to 0"),
        ({"databases": ["1=-1"]}, "rules.databases.1", "greater than or equal to 0"),
        ({"databases": ["1"]}, "rules.databases", "1=0"),
        ({"databases": ["x=0"]}, "rules.databases", "is a number"),
        ({"databases": {"1": "x"}}, "rules.databases.1", "integer"),
        ({"rename": ["=b"]}, "rules.rename.0.from", "empty"),
        ({"rename": ["a"]}, "rules.rename.0", "old:=new:"),
        ({"rename": [r"a\b=c"]}, "rules.rename.0.from", "backslash"),
        ({"rename": ["a=b", r"\x61=c"]}, "rules", "rename 2 has the same from as rename 1"),
        ({"rename": ["a=b", "ab=c"]}, "rules", "rename 2 can never apply"),
        ({"rename": [{"from": "a"}]}, "rules.rename.0.to", "required"),
        ({"renames": []}, "rules.renames", "not a known setting"),
    ],
    ids=str,
)
def test_a_contradiction_is_refused_by_name(table: Mapping[str, object], name: str, why: str) -> None:
    text = refusal(table)

    assert text.startswith(f"{name} ") or text.startswith(f"{name}."), text
    assert why in text
    assert "flag" in text


def test_a_value_put_in_the_wrong_place_is_not_repeated() -> None:
    secret = "n1netyN1ne\\balloons"
    for name in ("include", "databases", "rename", "max_bytes", "include_types"):
        assert secret not in refusal({name: secret})
        assert secret not in refusal({name: [secret + "\\xzz"], "min_bytes": "x"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("10KB", 10_000), ("1MiB", 1 << 20), ("1.5 kb", 1500), ("2TiB", 2 << 40), ("7b", 7)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert rules(max_bytes=text).settings.max_bytes == size


def test_file_environment_and_flags_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "greenfly.toml"
    file.write_text(
        """
[rules]
include = ["user:*", "cart,*"]
exclude_types = ["stream"]
max_bytes = "10MB"
databases = {"1" = 0, "2" = 0}

[[rules.rename]]
from = "old:"
to = "new:"
[[rules.rename]]
from = "a=b"
to = ""
"""
    )
    environ = {
        "GREENFLY_RULES__INCLUDE": r"user:*, cart\x2c*",
        "GREENFLY_RULES__EXCLUDE_TYPES": "stream",
        "GREENFLY_RULES__MAX_BYTES": "10MB",
        "GREENFLY_RULES__DATABASES": "1=0,2=0",
        "GREENFLY_RULES__RENAME": r"old:=new:,a\x3db=",
    }
    flags = rule_overrides(
        ["user:*", "cart,*"], None, [], ["stream"], None, "10MB", ["1=0", "2=0"], ["old:=new:", r"a\x3db="]
    )

    found = [
        load_settings(config_file=file, environ={}),
        load_settings(environ=environ),
        load_settings({"rules": flags}, environ={}),
    ]

    page = [b"user:1", b"cart,1", b"x"]
    for loaded in found:
        made = Rules.of(loaded.settings.rules)
        assert made.select(page, [b"hash", b"stream", b"hash"], [1, 1, 1]) == Selection(
            [0], {"include": 1, "type stream": 1}
        )
        assert made.settings.max_bytes == 10_000_000
        assert made.settings.databases == {1: 0, 2: 0}
        assert made.rename_all([b"old:1", b"a=bc"]) == [b"new:1", b"c"]
    assert [loaded.origins["rules.max_bytes"].split()[0] for loaded in found] == [
        "file",
        "environment",
        "flag",
    ]


def test_a_flag_replaces_the_files_rule_and_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "greenfly.toml"
    file.write_text('[rules]\ninclude = ["a*"]\nexclude = ["ab*"]\ndatabases = {"1" = 0, "2" = 0}\n')

    found = load_settings({"rules": rule_overrides(["b*"], map_db=["3=4"])}, config_file=file, environ={})

    assert found.settings.rules.include == ("b*",)
    assert found.settings.rules.exclude == ("ab*",)
    assert found.settings.rules.databases == {3: 4}


FLAGS = (
    *(
        "--include",
        "a*",
        "--include",
        "b*",
        "--exclude",
        "ab*",
        "--include-type",
        "hash",
        "--include-type",
        "set",
    ),
    *(
        "--exclude-type",
        "stream",
        "--min-bytes",
        "10",
        "--max-bytes",
        "1MiB",
        "--map-db",
        "1=0",
        "--map-db",
        "2=0",
    ),
    *("--rename", "old:=new:", "--rename", "x=y"),
)


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_the_commands_pass_every_rule_on(
    greenfly: Greenfly, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    taken: list[Settings] = []

    def take(settings: Settings, *_: object, **__: object) -> None:
        taken.append(settings)
        raise ConfigurationError("far enough", "")

    monkeypatch.setattr(f"flows.sequence.{command}", take)

    run_here(greenfly, command, *between("redis://blue", "redis://green"), *FLAGS)

    assert Rules.of(taken[0].rules).describe() == {
        "include": ["a*", "b*"],
        "exclude": ["ab*"],
        "include_types": ["hash", "set"],
        "exclude_types": ["stream"],
        "min_bytes": 10,
        "max_bytes": 1 << 20,
        "databases": {"1": 0, "2": 0},
        "rename": [{"from": "old:", "to": "new:"}, {"from": "x", "to": "y"}],
    }


def test_the_settings_in_force_show_the_rules(greenfly: Greenfly) -> None:
    shown = run_here(greenfly, "config", "show", env={"GREENFLY_RULES__DATABASES": "1=0,5=6"})

    lines = [line.split(maxsplit=2) for line in shown.stdout.splitlines()]
    assert ["rules.databases.5", "6", "environment GREENFLY_RULES__DATABASES"] in lines
    assert ["rules.include", "[]", "default"] in lines
