"""Looking through Lua scripts: which keys they were given, what they call, and words that only look like it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.assess.lua_script import LuaScript, Origin, read_script
from integrity.assess.lua_tokens import tokens_of

_FIRST = {"get", "set", "incr", "hget", "expire"}
_ALL = {"mget", "del"}


def places(command: str, arguments: int) -> Sequence[int] | None:
    """As a server would tell for a few commands; of ZUNION it does not."""
    if command in _ALL:
        return range(arguments)
    return [0] if command in _FIRST else None if command == "zunion" else []


def origins(text: str) -> list[Origin]:
    """Of each call with a key that is not certain to be given."""
    return [origin for _, origin in read_script(text).keys(places)]


@pytest.mark.parametrize(
    "text",
    [
        "return redis.call('GET', KEYS[1])",
        "return redis.call( 'MGET' , unpack(KEYS))",
        "return redis.call('MGET', KEYS[1], KEYS[ARGV[1] + 1])",
        "local k = KEYS[1]\nreturn redis.call('GET', k)",
        "local a, b = KEYS[1], KEYS[2]\nreturn redis.pcall('MGET', a, b)",
        "local k\nif ARGV[1] then k = KEYS[1] else k = KEYS[2] end\nreturn redis.call('GET', k)",
        "for i, k in ipairs(KEYS) do redis.call('INCR', k) end",
        "local rcall = redis.call\nreturn rcall('GET', KEYS[1])",
        "return redis.call('SET', KEYS[1], 'made:' .. ARGV[1])",
        "return redis.call('ZUNION', KEYS[1], KEYS[2])",
        "return redis.call('TIME')",
        "-- redis.call('GET', 'x')\n--[[ redis.call('GET', 'y') ]]\nreturn 1",
        "return [[ redis.call('GET', 'z') ]]",
        "return \"redis.call('GET', 'z')\"",
        "return server.call('GET', KEYS[1])",
        "local r = redis.call('GET', KEYS[1]) or KEYS[2]\nreturn r",
        "",
    ],
)
def test_scripts_that_touch_only_what_they_were_given(text: str) -> None:
    assert origins(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "return redis.call('GET', 'counter')",
        'return redis.call("get", ARGV[1])',
        "return redis.call('GET', KEYS[1] .. ':lock')",
        "local k = 'lock:' .. KEYS[1]\nreturn redis.call('GET', k)",
        "local k = KEYS[1]\nk = ARGV[1]\nreturn redis.call('GET', k)",
        "local k = KEYS[1] or 'fallback'\nreturn redis.call('GET', k)",
        "for _, k in ipairs(ARGV) do redis.call('INCR', k) end",
        "for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('INCR', k) end",
        "return redis.call('MGET', KEYS[1], 'second')",
        "return redis.call('DEL', unpack(ARGV))",
        "local rcall = redis.call\nreturn rcall('GET', string.format('%s:x', KEYS[1]))",
        "return redis.call('SET', tostring(ARGV[1]), 1)",
        "return server.pcall('INCR', 'x')",
    ],
)
def test_keys_that_a_script_makes_up(text: str) -> None:
    assert origins(text) == [Origin.MADE_UP]


@pytest.mark.parametrize(
    "text",
    [
        "local function f(k) return redis.call('GET', k) end\nreturn f(KEYS[1])",
        "local t = {KEYS[1]}\nreturn redis.call('GET', t[1])",
        "return redis.call(ARGV[1], KEYS[1])",
        "return redis.call('ZUNION', 2, KEYS[1], KEYS[2])",
        "return redis.call('GET', k)",
    ],
)
def test_keys_of_which_reading_cannot_tell(text: str) -> None:
    assert origins(text) == [Origin.UNTOLD]


def test_calls_keep_their_lines_and_commands_after_comments_and_a_shebang() -> None:
    script = read_script(
        "#!lua flags=no-writes\n--[==[ two\nlines ]] ]==]\nlocal x = 1\nredis.call(\n  'hGet', KEYS[1], 'f')\n"
    )
    assert script.shebang == "#!lua flags=no-writes"
    assert [(call.line, call.command, len(call.arguments)) for call in script.calls] == [(5, "hget", 2)]


def test_dragonflys_flags_are_read_only_from_the_first_line() -> None:
    assert read_script("--!df flags=allow-undeclared-keys,x\nreturn 1").flags == {
        "allow-undeclared-keys",
        "x",
    }
    assert read_script("return 1\n--!df flags=allow-undeclared-keys").flags == frozenset()


def test_names_are_those_that_are_called_and_not_defined() -> None:
    script: LuaScript = read_script(
        "local function mine(x) return x end\n"
        "local unpack = table.unpack or unpack\n"
        "local n = math.pow(2, 3) + mine(1)\n"
        "local s = string.format('%d', n)\n"
        "local o = {}\no.method(1)\no:other()\n"
        "return cjson.encode{s}, loadstring 'return 1', mine(math.huge)"
    )
    assert script.names == {"math.pow": 3, "string.format": 4, "cjson.encode": 8, "loadstring": 8}


def test_divisions_and_powers_are_found_and_comments_are_none() -> None:
    script = read_script("local a = 6 / 2 -- 1/2\nlocal b = 'x/y'\nlocal c = a ^ 2\nlocal d = a * 2")
    assert script.divisions == (1, 3)


@given(st.text(alphabet="KEYSARGV[]()'\"{}=.,-\n redis.call local function for in do end or..1", max_size=80))
def test_whatever_is_no_lua_is_read_without_an_error(text: str) -> None:
    script = read_script(text)
    script.keys(places)
    assert all(token.text for token in tokens_of(text))
