"""Values out of bodies, in the shape of the server's own answers, so that a digest can be made of a file alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Final

from integrity.kinds.field_expiry import NONE
from integrity.kinds.pieces import Piece
from integrity.rdb import types
from integrity.rdb.body import Body
from integrity.rdb.errors import MALFORMED, MalformedBody, UnsupportedBody
from integrity.rdb.expiring import Expiring, expiring_decoder, without_expired
from integrity.rdb.module_id import module_name, module_version
from integrity.rdb.packed import intset, listpack, node_elements, ziplist, zipmap
from integrity.rdb.scores import spelled, text_score
from integrity.rdb.stream_body import stream_pieces, stream_reply
from integrity.rdb.strings import counted_strings, expect_end, length_at, only_string, string_at
from integrity.replies import Reply
from integrity.transfer.payload import KIND_BY_RDB_TYPE

Decoder = Callable[[bytes], Reply]
"""What the command that reads the whole value would answer.

:raises MalformedBody: the body is not the type's.
:raises IndexError: it is cut off.
:raises struct.error: it is cut off.
:raises ValueError: it is something else.
"""
_JSON_KIND: Final = "ReJSON-RL"
_JSON_VERSION: Final = 3
_STRING_OPCODE: Final = 5
_double: Final = struct.Struct("<d").unpack_from


def kind_of(rdb_type: int, body: bytes) -> str:
    """The type's name as TYPE answers it.

    :param body: only looked at for modules, of whose bodies the beginning is enough.
    :raises MalformedBody: a module has no name.
    """
    if rdb_type in (types.MODULE, types.MODULE_OLD):
        return module_name(Body((), body).length())
    return KIND_BY_RDB_TYPE[rdb_type]


def decoder_for(rdb_type: int, rdb_version: int, as_of_ms: int | None = None) -> Decoder | None:
    """What decodes a body of this type; None where there is no canonical form to compare.

    Of modules only JSON has one, and whether a module is that shows in the body.

    :param as_of_ms: leave out fields whose expiry had passed then; see :func:`value_of`.
    """
    expiring = expiring_decoder(rdb_type, rdb_version)
    if expiring is not None:
        return partial(_without_times, expiring, as_of_ms)
    return _DECODERS.get(rdb_type)


def value_of(rdb_type: int, body: bytes, rdb_version: int, as_of_ms: int | None = None) -> Reply:
    """The value, as the typed command that reads the whole key answers (:attr:`~integrity.kinds.base.Kind.prefix`).

    :param as_of_ms: leave out fields whose expiry had passed at that time, as a server does: files hold them until the
        server gets round to them.  None keeps them.
    :raises UnsupportedBody: the type has no canonical form.
    :raises MalformedBody: the body is not what *rdb_type* says.
    """
    decode = decoder_for(rdb_type, rdb_version, as_of_ms)
    if decode is None:
        raise UnsupportedBody(f"values of RDB type {rdb_type} have no form that could be compared")
    try:
        return decode(body)
    except MalformedBody:
        raise
    except MALFORMED as error:
        raise MalformedBody(f"a value of RDB type {rdb_type} is malformed") from error


def whole_pieces(rdb_type: int, body: bytes, rdb_version: int) -> list[Piece]:
    """The value as :meth:`~integrity.kinds.base.Kind.write` takes it: one piece, of streams several.

    The expiries of fields (and of members, which Dragonfly has) are in it.

    :raises UnsupportedBody: the type has no canonical form.
    :raises MalformedBody: the body is not what *rdb_type* says.
    """
    expiring = expiring_decoder(rdb_type, rdb_version)
    if expiring is not None:
        try:
            elements, times = expiring(body)
        except MALFORMED as error:
            raise MalformedBody(f"a value of RDB type {rdb_type} is malformed") from error
        some = any(time != NONE for time in times)
        return [Piece([*elements], expiries=tuple(times) if some else ())]
    value = value_of(rdb_type, body, rdb_version)
    return stream_pieces(value) if rdb_type in types.STREAM_FORMS else [Piece(value)]


def field_expiries_of(rdb_type: int, body: bytes, rdb_version: int) -> dict[bytes, int]:
    """The fields of a hash (or members of a set) that expire, in milliseconds since 1970.

    :raises MalformedBody: the body is not what *rdb_type* says.
    """
    if expiring_decoder(rdb_type, rdb_version) is None:
        return {}
    (piece,) = whole_pieces(rdb_type, body, rdb_version)
    if not isinstance(piece.content, list) or not piece.expiries:
        return {}
    names = piece.content[:: len(piece.content) // len(piece.expiries)]
    return {
        name: time
        for name, time in zip(names, piece.expiries, strict=True)
        if time != NONE and isinstance(name, bytes)
    }


# -- one type each ---------------------------------------------------------------------------------------------------


def _packed(unpack: Callable[[bytes], list[bytes]], width: int, body: bytes) -> Reply:
    found = unpack(only_string(body))
    if len(found) % width:
        raise MalformedBody("a value lacks the last part of a pair")
    return found  # type: ignore[return-value]  # a list of byte strings, which nobody adds to


def _plain(each: int, body: bytes) -> Reply:
    return counted_strings(body, each)  # type: ignore[return-value]


def _nodes(body: bytes) -> Reply:
    return list(chain.from_iterable(map(ziplist, counted_strings(body, 1))))


def _nodes_2(body: bytes) -> Reply:
    count, at = length_at(body, 0)
    found: list[Reply] = []
    for _ in range(count):
        container, at = length_at(body, at)
        node, at = string_at(body, at)
        found.extend(node_elements(container, node))
    expect_end(body, at)
    return found


def _scores(body: bytes) -> Reply:
    count, at = length_at(body, 0)
    found: list[Reply] = []
    add = found.append
    for _ in range(count):
        first = body[at]
        if first < 0x40:
            end = at + 1 + first
            add(body[at + 1 : end])
            at = end
        else:
            member, at = string_at(body, at)
            add(member)
        add(spelled(_double(body, at)[0]))
        at += 8
    expect_end(body, at)
    return found


def _text_scores(body: bytes) -> Reply:
    count, at = length_at(body, 0)
    found: list[Reply] = []
    for _ in range(count):
        member, at = string_at(body, at)
        size, at = body[at], at + 1
        end = at + (size if size < 253 else 0)
        score, at = text_score(size, body[at:end]), end
        found += [member, score]
    expect_end(body, at)
    return found


def _json_of_module(body: bytes) -> Reply:
    identifier, at = length_at(body, 0)
    if module_name(identifier) != _JSON_KIND:
        raise UnsupportedBody(f"values of the module {module_name(identifier)} have no form to compare")
    opcode, at = length_at(body, at)
    if module_version(identifier) != _JSON_VERSION or opcode != _STRING_OPCODE:
        raise UnsupportedBody("a JSON document is in a form of an older module")
    text, at = string_at(body, at)
    more, at = length_at(body, at)
    if more:
        raise UnsupportedBody("a JSON document is in a form of a newer module")
    expect_end(body, at)
    return text


_DECODERS: Final[dict[int, Decoder]] = {
    types.STRING: only_string,
    types.LIST: partial(_plain, 1),
    types.SET: partial(_plain, 1),
    types.SORTED_SET_TEXT: _text_scores,
    types.HASH: partial(_plain, 2),
    types.SORTED_SET: _scores,
    types.MODULE: _json_of_module,
    types.HASH_ZIPMAP: partial(_packed, zipmap, 2),
    types.LIST_ZIPLIST: partial(_packed, ziplist, 1),
    types.SET_INTSET: partial(_packed, intset, 1),
    types.SORTED_SET_ZIPLIST: partial(_packed, ziplist, 2),
    types.HASH_ZIPLIST: partial(_packed, ziplist, 2),
    types.LIST_QUICKLIST: _nodes,
    types.HASH_LISTPACK: partial(_packed, listpack, 2),
    types.SORTED_SET_LISTPACK: partial(_packed, listpack, 2),
    types.LIST_QUICKLIST_2: _nodes_2,
    types.SET_LISTPACK: partial(_packed, listpack, 1),
    types.JSON: only_string,
    **{number: partial(stream_reply, form) for number, form in types.STREAM_FORMS.items()},
}


def _without_times(expiring: Expiring, as_of_ms: int | None, body: bytes) -> Reply:
    elements, times = expiring(body)
    if as_of_ms is not None:
        elements, _ = without_expired(elements, times, as_of_ms)
    return elements  # type: ignore[return-value]
