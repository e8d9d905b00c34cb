"""What a Lua script does that a server may refuse: keys it was not given, commands, names of the language.

Found by reading, not by running.  A key is *declared* where it is an element of KEYS or a variable that only ever holds
one; *made up* where it is a text, an argument, put together, or an answer of the server; else it cannot be told (a
function's parameter, a field of a table).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from integrity.assess.lua_tokens import Token, closing, expressions, tokens_of

_SHEBANG: Final = re.compile(r"\A#!(\S*)([^\n]*)")
_FLAGS: Final = re.compile(r"\A\s*--!df flags=(\S+)")
_CALLS: Final = frozenset({"call", "pcall", "acall", "apcall"})
_SERVERS: Final = frozenset({"redis", "server"})
_LIBRARIES: Final = frozenset(
    {"redis", "server", "math", "table", "string", "bit", "cjson", "cmsgpack", "struct", "os", "coroutine"}
)
_TEXTS: Final = frozenset({"tostring", "string", "table", "cjson", "cmsgpack", "struct", "redis", "server"})
"""What makes a text when it is called, or is one of these libraries' functions."""

KeyPlaces = Callable[[str, int], "Sequence[int] | None"]
"""Which of a command's arguments are keys, by its name (lower case) and how many arguments it has; None: not told."""


class Origin(IntEnum):
    """Where the name of a key comes from."""

    DECLARED = 0
    UNTOLD = 1
    MADE_UP = 2


@dataclass(frozen=True, slots=True)
class Call:
    """One ``redis.call`` of a script."""

    line: int
    command: str | None
    """Lower case; None where it is not a text in the script."""
    arguments: tuple[Sequence[Token], ...]
    """Expressions after the command."""


@dataclass(frozen=True, slots=True)
class LuaScript:
    """One script, looked through."""

    shebang: str | None
    """The first line, where it is one such as ``#!lua flags=no-writes``."""
    flags: frozenset[str]
    """Of a first line ``--!df flags=…``."""
    calls: tuple[Call, ...]
    names: dict[str, int]
    """Functions of the language that are called and that the script does not define, with the line: ``math.pow``."""
    divisions: tuple[int, ...]
    """Lines that divide or take a power, which gives a float in Lua 5.4."""
    origins: dict[str, Origin] = field(repr=False)
    """Variable → where what it holds comes from."""

    def keys(self, places: KeyPlaces) -> list[tuple[Call, Origin]]:
        """Calls with a key that is not declared, and what is worst about one of their keys."""
        found: list[tuple[Call, Origin]] = []
        for call in self.calls:
            worst = self._worst(call, places)
            if worst is not Origin.DECLARED:
                found.append((call, worst))
        return found

    def _worst(self, call: Call, places: KeyPlaces) -> Origin:
        if call.command is None:
            return Origin.UNTOLD
        spread = next((n for n, e in enumerate(call.arguments) if _spreads(e)), None)
        chosen = places(call.command, len(call.arguments))
        if chosen is None:
            held = [_origin(e, self.origins) for e in call.arguments]
            return Origin.DECLARED if set(held) <= {Origin.DECLARED} else Origin.UNTOLD
        origins = [
            _origin(call.arguments[place], self.origins)
            for place in chosen
            if place < len(call.arguments) and (spread is None or place <= spread)
        ]
        return max(origins, default=Origin.DECLARED)


def read_script(text: str) -> LuaScript:
    """Look a script through; whatever is no Lua gives what can be made of it."""
    shebang = _SHEBANG.match(text)
    flags = _FLAGS.match(text)
    tokens = tokens_of(text[shebang.end() :] if shebang else text)
    origins = _variables(tokens)
    return LuaScript(
        shebang=shebang.group().rstrip() if shebang else None,
        flags=frozenset(flags.group(1).split(",")) if flags else frozenset(),
        calls=tuple(_calls(tokens)),
        names=_names(tokens, origins),
        divisions=tuple(sorted({t.line for t in tokens if t.kind == "symbol" and t.text in {"/", "^"}})),
        origins=origins,
    )


def _calls(tokens: Sequence[Token]) -> list[Call]:
    aliases = _aliases(tokens)
    found = []
    for place, token in enumerate(tokens):
        if token.text in _SERVERS and _texts(tokens, place + 1, 2) in {(".", name) for name in _CALLS}:
            opening = place + 3
        elif token.text in aliases and _text(tokens, place - 1) not in {".", ":", "local", "function", ","}:
            opening = place + 1
        else:
            continue
        if _text(tokens, opening) == "(":
            arguments, _ = expressions(tokens[: closing(tokens, opening)], opening + 1)
            name = arguments[0] if arguments else ()
            literal = name[0].literal.lower() if len(name) == 1 and name[0].kind == "string" else None
            found.append(Call(token.line, literal, tuple(arguments[1:])))
    return found


def _aliases(tokens: Sequence[Token]) -> frozenset[str]:
    """Variables that hold ``redis.call``."""
    return frozenset(
        tokens[place - 1].text
        for place, token in enumerate(tokens)
        if token.text == "="
        and place
        and tokens[place - 1].kind == "name"
        and _text(tokens, place + 1) in _SERVERS
        and _texts(tokens, place + 2, 2) in {(".", name) for name in _CALLS}
        and _text(tokens, place + 4) != "("
    )


def _variables(tokens: Sequence[Token]) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}

    def hold(name: str, origin: Origin) -> None:
        origins[name] = max(origins.get(name, Origin.DECLARED), origin)

    for place, token in enumerate(tokens):
        if token.text == "function" and token.kind == "keyword":
            name_at = place + 1
            if name_at < len(tokens) and tokens[name_at].kind == "name":
                hold(tokens[name_at].text, Origin.UNTOLD)
            opening = next((at for at in range(place, len(tokens)) if tokens[at].text == "("), len(tokens))
            for inner in tokens[opening : closing(tokens, opening)] if opening < len(tokens) else ():
                if inner.kind == "name":
                    hold(inner.text, Origin.UNTOLD)
        elif token.text == "for" and token.kind == "keyword":
            names, after = _name_list(tokens, place + 1)
            origin = Origin.UNTOLD
            if _text(tokens, after) == "in":
                values, _ = expressions(tokens, after + 1)
                origin = _elements(values[0], origins) if values else Origin.UNTOLD
            for name in names[:-1] or names[:1]:
                hold(name, Origin.UNTOLD)
            if len(names) > 1:
                hold(names[-1], origin)
        elif token.kind == "name" and _begins_assignment(tokens, place):
            names, after = _name_list(tokens, place)
            if _text(tokens, after) == "=":
                values, _ = expressions(tokens, after + 1)
                for number, name in enumerate(names):
                    hold(name, _origin(values[number], origins) if number < len(values) else Origin.UNTOLD)
            elif _text(tokens, place - 1) == "local":
                # What is declared without a value gets one later.
                for name in names:
                    hold(name, Origin.DECLARED)
    return origins


def _begins_assignment(tokens: Sequence[Token], place: int) -> bool:
    return place == 0 or _text(tokens, place - 1) not in {
        ".",
        ":",
        ",",
        "(",
        "{",
        "[",
        "=",
        "for",
        "function",
    }


def _name_list(tokens: Sequence[Token], place: int) -> tuple[list[str], int]:
    names = []
    while place < len(tokens) and tokens[place].kind == "name":
        names.append(tokens[place].text)
        place += 1
        if _text(tokens, place) != ",":
            break
        place += 1
    return names, place


def _origin(expression: Sequence[Token], origins: dict[str, Origin]) -> Origin:
    if not expression:
        return Origin.UNTOLD
    first = expression[0]
    if first.text == "KEYS" and _text(expression, 1) == "[" and closing(expression, 1) == len(expression) - 1:
        return Origin.DECLARED
    if _spreads(expression):
        return _elements(expression, origins)
    if len(expression) == 1:
        if first.kind in {"string", "number"}:
            return Origin.MADE_UP
        return origins.get(first.text, Origin.UNTOLD) if first.kind == "name" else Origin.UNTOLD
    if _has(expression, ".."):
        return Origin.MADE_UP
    for word in ("or", "and"):
        if _has(expression, word):
            return max(_origin(part, origins) for part in _parts(expression, word))
    if first.text == "ARGV" or (first.kind == "name" and first.text in _TEXTS):
        return Origin.MADE_UP
    # What redis.call answers, by whatever name it is called, is no key that was given.
    return origins.get(first.text, Origin.UNTOLD) if _text(expression, 1) == "(" else Origin.UNTOLD


def _elements(expression: Sequence[Token], origins: dict[str, Origin]) -> Origin:
    """Of what ``ipairs(x)`` or ``unpack(x)`` hands out."""
    opening = next((place for place, token in enumerate(expression) if token.text == "("), None)
    if opening is None:
        return Origin.UNTOLD
    values, _ = expressions(expression[: closing(expression, opening)], opening + 1)
    inner = values[0]
    if [token.text for token in inner] == ["KEYS"]:
        return Origin.DECLARED
    return Origin.MADE_UP if [token.text for token in inner] == ["ARGV"] else _origin(inner, origins)


def _spreads(expression: Sequence[Token]) -> bool:
    """Whether an expression stands for several values."""
    texts = [token.text for token in expression[:3]]
    return texts[:1] in (["unpack"], ["..."]) or texts == ["table", ".", "unpack"]


def _depths(expression: Sequence[Token]) -> list[int]:
    depths, depth = [], 0
    for token in expression:
        depth -= token.kind == "symbol" and token.text in {")", "]", "}"}
        depths.append(depth)
        depth += token.kind == "symbol" and token.text in {"(", "[", "{"}
    return depths


def _has(expression: Sequence[Token], word: str) -> bool:
    return any(
        token.text == word and token.kind != "string" and not depth
        for token, depth in zip(expression, _depths(expression), strict=True)
    )


def _parts(expression: Sequence[Token], word: str) -> list[Sequence[Token]]:
    parts: list[list[Token]] = [[]]
    for token, depth in zip(expression, _depths(expression), strict=True):
        if token.text == word and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return list(parts)


def _names(tokens: Sequence[Token], defined: dict[str, Origin]) -> dict[str, int]:
    found: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token.kind != "name" or token.text in defined or _text(tokens, place - 1) in {".", ":"}:
            continue
        if token.text in _LIBRARIES and _text(tokens, place + 1) == "." and _called(tokens, place + 3):
            found.setdefault(f"{token.text}.{_text(tokens, place + 2)}", token.line)
        elif _called(tokens, place + 1) and token.text not in _LIBRARIES:
            found.setdefault(token.text, token.line)
    return found


def _called(tokens: Sequence[Token], place: int) -> bool:
    return place < len(tokens) and (tokens[place].text in {"(", "{"} or tokens[place].kind == "string")


def _text(tokens: Sequence[Token], place: int) -> str:
    return tokens[place].text if 0 <= place < len(tokens) else ""


def _texts(tokens: Sequence[Token], place: int, count: int) -> tuple[str, ...]:
    return tuple(_text(tokens, place + offset) for offset in range(count))
