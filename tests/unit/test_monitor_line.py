"""MONITOR's lines, as the servers write them, and what is no such line."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.sync.monitor_line import MalformedLine, arguments, beginning, cut, unescape

_LETTERS = {0x22: b'\\"', 0x5C: b"\\\\", 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t", 0x07: b"\\a", 0x08: b"\\b"}


def escaped(value: bytes) -> bytes:
    """What ``sdscatrepr`` of Redis makes of it, without the quotes."""
    return b"".join(
        _LETTERS.get(byte) or (bytes([byte]) if 0x20 <= byte < 0x7F else b"\\x%02x" % byte) for byte in value
    )


def line(*command: bytes, client: bytes = b"127.0.0.1:49608", stamp: bytes = b"1795377089.505182") -> bytes:
    quoted = b" ".join(b'"%b"' % escaped(part) for part in command)
    return b"+%b [0 %b] %b\r\n" % (stamp, client, quoted)


awkward = st.one_of(
    st.binary(max_size=30),
    st.text('"\\ \r\n\tx', max_size=12).map(str.encode),
    st.sampled_from([b'" "', b'"', b"\\", b'\\"', b'" ', b' "', b"", b'"]', b'] "x" "']),
)
commands = st.tuples(st.sampled_from([b"SET", b"get", b"JSON.SET"]), st.lists(awkward, max_size=6))


@given(awkward)
def test_unescaping_undoes_what_the_server_does(value: bytes) -> None:
    assert unescape(escaped(value)) == value


@given(st.lists(commands, max_size=8))
def test_lines_are_cut_into_the_arguments_they_were_made_of(block: list[tuple[bytes, list[bytes]]]) -> None:
    found = cut(b"".join(line(name, *rest) for name, rest in block))
    assert len(found) == len(block)
    for (client, command, tail, first), (name, rest) in zip(found, block, strict=True):
        assert (client, command) == (b"127.0.0.1:49608", name)
        assert [unescape(argument) for argument in arguments(tail)] == rest
        assert unescape(first) == (rest[0] if rest else b"")
        assert [unescape(argument) for argument in arguments(tail, 2)] == rest[:2]


@pytest.mark.parametrize("client", [b"lua", b"[::1]:6379", b"unix:/tmp/a b.sock", b"REPLICATION:0"])
def test_whoever_ran_a_command_is_told(client: bytes) -> None:
    assert cut(line(b"DEL", b"k", client=client))[0][:2] == (client, b"DEL")


@pytest.mark.parametrize("stamp", [b"1795377089.5051826", b"1795377089.126", b"1339518083.107412"])
def test_the_odd_stamps_of_dragonfly_are_stamps(stamp: bytes) -> None:
    assert len(cut(line(b"PING", stamp=stamp))) == 1


@pytest.mark.parametrize(
    "block",
    [
        b"\r\n",
        b"\n",
        b"+OK\r\n",
        b"-ERR broken\r\n",
        b'+1.2 [0 lua] "SET" "k"\n',
        b'+1.2 [0 lua] "SET" "k\r\n',
        b'+1.2 [0 lua] "SET" k"\r\n',
        b'+1.2 [0 lua] "SET" "k" v\r\n',
        b'+1.2 [0 lua] "SET" "k" "v\r\n',
        b'+1.2 [0 lua] "SET" "k" "v" \r\n',
        b'+1.2 [0 lua] "SET"  "k"\r\n',
        b'+1.2 [0 lua] SET "k"\r\n',
        b'+1.2 [0] "SET" "k"\r\n',
        b'+1.2 "SET" "k"\r\n',
        b'1.2 [0 lua] "SET" "k"\r\n',
        b'+1.2 [0 lua] "SET" "k\\"\r\n',
        line(b"SET", b"k") + b'+1.2 [0 lua] "SE\r\n' + line(b"SET", b"k"),
        line(b"SET", b"k")[:-10] + line(b"SET", b"k"),
    ],
)
def test_what_is_no_line_of_monitor_is_refused(block: bytes) -> None:
    with pytest.raises(MalformedLine):
        cut(block)


@pytest.mark.parametrize("text", [rb"\q", rb"\x4", rb"\xzz", rb"\u0041", rb"\101", rb"\N{DIGIT ONE}", b"\\"])
def test_an_escape_that_no_server_writes_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedLine):
        unescape(text)


@pytest.mark.parametrize("text", [b' "a""b"', b' "a"  "b"', b'"a"', b' "a', b' a"'])
def test_arguments_that_do_not_follow_each_other_are_refused(text: bytes) -> None:
    with pytest.raises(MalformedLine):
        arguments(text)


@pytest.mark.parametrize("value", [b'"', b"\\", b"\x00", b"x", b'" ', b'\\"'])
@pytest.mark.parametrize("place", [0, 1])
def test_a_line_takes_time_in_proportion_to_its_length(value: bytes, place: int) -> None:
    def seconds(size: int) -> float:
        whole = line(b"SET", *([b"k"] * place), value * (size // len(value)))
        begun = process_time()
        _, _, tail, first = cut(whole)[0]
        unescape(first)
        arguments(tail)
        return process_time() - begun

    seconds(1000)
    # Twenty times as long; a square would take four hundred times as long.
    assert seconds(2_000_000) < 100 * max(seconds(100_000), 0.001)


def test_the_beginning_of_a_line_tells_what_is_whole_in_it() -> None:
    whole = line(b"SET", b'a" "b', b"v" * 100)
    assert beginning(whole[:80]) == (b"127.0.0.1:49608", b"SET", escaped(b'a" "b'))
    assert beginning(whole[:50]) is None
    assert beginning(line(b"PING")) is None
