"""The words of a Lua script, and where its expressions end: as much of a parser as looking for keys needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<comment>--\[(?P<c>=*)\[.*?(?:\](?P=c)\]|\Z)|--[^\n]*)
    |(?P<string>\[(?P<s>=*)\[.*?(?:\](?P=s)\]|\Z)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<symbol>\.\.\.|\.\.|[=~<>]=|::|[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS: Final = frozenset(
    {
        "and",
        "break",
        "do",
        "else",
        "elseif",
        "end",
        "false",
        "for",
        "function",
        "goto",
        "if",
        "in",
        "local",
        "nil",
    }
    | {"not", "or", "repeat", "return", "then", "true", "until", "while"}
)
_BINARY: Final = frozenset(
    {"+", "-", "*", "/", "%", "^", "..", "==", "~=", "<=", ">=", "<", ">", "and", "or"}
)
_UNARY: Final = frozenset({"not", "#", "-"})
_CLOSES: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    """One word or sign."""

    kind: str
    """``name``, ``keyword``, ``string``, ``number`` or ``symbol``."""
    text: str
    line: int

    @property
    def literal(self) -> str:
        """What a string stands for, escapes left as they are."""
        text = self.text
        return text[1:-1] if text[:1] in {"'", '"'} else text.strip("[]=")


def tokens_of(script: str) -> list[Token]:
    """The words of *script* without its comments; never fails, whatever it is given."""
    found, line, at = [], 1, 0
    for match in _TOKEN.finditer(script):
        line += script.count("\n", at, match.start())
        at = match.start()
        kind, text = match.lastgroup or "symbol", match.group()
        kind = next(name for name in ("comment", "string", "number", "name", "symbol") if match[name])
        if kind != "comment":
            found.append(Token("keyword" if text in _KEYWORDS and kind == "name" else kind, text, line))
    return found


def closing(tokens: Sequence[Token], opening: int) -> int:
    """Where the bracket at *opening* closes; the end of the script where it does not."""
    depth = 0
    for place in range(opening, len(tokens)):
        if tokens[place].kind == "symbol":
            depth += (tokens[place].text in _CLOSES) - (tokens[place].text in _CLOSES.values())
        if not depth:
            return place
    return len(tokens)


def expression_end(tokens: Sequence[Token], start: int) -> int:
    """Where the expression that begins at *start* ends: the place after its last word."""
    place = _operand_end(tokens, start)
    while place < len(tokens) and tokens[place].text in _BINARY and tokens[place].kind != "string":
        place = _operand_end(tokens, place + 1)
    return place


def expressions(tokens: Sequence[Token], start: int) -> tuple[list[Sequence[Token]], int]:
    """The expressions from *start* on that commas part, and the place after the last."""
    found: list[Sequence[Token]] = []
    while True:
        end = expression_end(tokens, start)
        found.append(tokens[start:end])
        if end >= len(tokens) or tokens[end].text != "," or end == start:
            return found, end
        start = end + 1


def _operand_end(tokens: Sequence[Token], place: int) -> int:
    while place < len(tokens) and tokens[place].text in _UNARY:
        place += 1
    if place >= len(tokens):
        return place
    first = tokens[place]
    if first.text == "function":
        return _function_end(tokens, place)
    if first.kind == "keyword" and first.text not in {"nil", "true", "false"}:
        return place
    if first.kind == "symbol" and first.text not in {"(", "{", "..."}:
        return place
    place = closing(tokens, place) + 1 if first.text in {"(", "{"} else place + 1
    while place < len(tokens):
        text, kind = tokens[place].text, tokens[place].kind
        if kind == "symbol" and text in {".", ":"}:
            place += 2
        elif (kind == "symbol" and text in _CLOSES and (text != "{" or first.kind == "name")) or (
            kind == "string" and first.kind == "name"
        ):
            place = closing(tokens, place) + 1 if kind == "symbol" else place + 1
        else:
            return place
    return len(tokens)


def _function_end(tokens: Sequence[Token], place: int) -> int:
    depth = 0
    for at in range(place, len(tokens)):
        if tokens[at].kind == "keyword":
            # "while … do" and "for … do" open with their "do"; "repeat" closes with "until".
            depth += tokens[at].text in {"function", "if", "do", "repeat"}
            depth -= tokens[at].text in {"end", "until"}
            if not depth:
                return at + 1
    return len(tokens)
