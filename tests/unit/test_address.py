"""Server URLs: what is understood, what is refused by name, and that no password is ever shown."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from integrity.address import Address, mask_url, mask_whole_url, parse_address
from integrity.errors import ConfigurationError


def parse(url: str) -> Address:
    return parse_address(url, "source.url")


def refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert caught.value.remedy
    assert "source.url" in caught.value.problem
    return str(caught.value)


# -- what is understood ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_host_port_and_database_are_read(scheme: str) -> None:
    address = parse(f"{scheme}://cache.example:7001/3")

    assert (address.scheme, address.host, address.port, address.database) == (
        scheme,
        "cache.example",
        7001,
        3,
    )
    assert (address.username, address.password) == (None, None)


def test_the_port_is_6379_and_the_database_is_open_where_the_url_names_none() -> None:
    assert (parse("redis://cache").port, parse("redis://cache").database) == (6379, None)
    assert parse("redis://cache/").database is None
    assert parse("redis://cache/0").database == 0


def test_the_database_can_be_an_option() -> None:
    assert parse("redis://cache?db=5").database == 5
    assert parse("unix:///run/redis.sock?db=4").database == 4


def test_an_ipv6_host_keeps_its_brackets_when_shown() -> None:
    address = parse("redis://[2001:db8::7]:6380/1")

    assert (address.host, address.port) == ("2001:db8::7", 6380)
    assert str(address) == "redis://[2001:db8::7]:6380"


def test_a_unix_path_is_read_and_shown() -> None:
    address = parse("unix://app:pw@/run/my%20redis.sock?db=2")

    assert (address.scheme, address.path, address.database) == ("unix", "/run/my redis.sock", 2)
    assert (address.username, address.password) == ("app", "pw")
    assert str(address) == "unix://app@/run/my redis.sock"


def test_user_and_password_are_percent_decoded() -> None:
    address = parse("redis://us%40er:p%40ss%2Fw%3Ard%23%25@cache")

    assert (address.username, address.password) == ("us@er", "p@ss/w:rd#%")


def test_a_password_without_a_user_is_understood() -> None:
    assert (parse("redis://:pw@cache").username, parse("redis://:pw@cache").password) == (None, "pw")


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_every_percent_encoded_password_comes_back_whole(password: str, user: str) -> None:
    address = parse(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@cache:6380/1")

    assert (address.username, address.password) == (user, password)
    assert (address.host, address.port, address.database) == ("cache", 6380, 1)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https", "redis+tls", "valkey", "postgresql", "redis-sentinel"])
def test_another_scheme_is_refused_by_name(scheme: str) -> None:
    text = refusal(f"{scheme}://cache:6379")

    assert repr(scheme) in text
    assert "rediss://" in text


def test_a_missing_scheme_is_refused() -> None:
    assert "scheme" in refusal("//cache:6379")
    assert "scheme" in refusal("")


def test_a_missing_host_or_path_is_refused() -> None:
    assert "host" in refusal("redis://:6379")
    assert "host" in refusal("redis://")
    assert "path" in refusal("unix://")


@pytest.mark.parametrize("option", ["ssl_cert_reqs", "protocol", "password", "timeout", "decode_responses"])
def test_an_option_that_is_not_read_is_refused_by_name(option: str) -> None:
    assert repr(option) in refusal(f"redis://cache?{option}=none")


@pytest.mark.parametrize("url", ["redis://cache/cache0", "redis://cache?db=first", "unix:///run/x?db=-1"])
def test_a_database_that_is_no_number_is_refused_by_name(url: str) -> None:
    database = url.rpartition("=")[2] if "=" in url else "cache0"

    assert repr(database) in refusal(url)


@pytest.mark.parametrize(
    "url", ["redis://cache:port", "redis://cache:70000", "redis://[::1", "redis://cache:-1"]
)
def test_a_port_or_host_that_cannot_be_is_refused(url: str) -> None:
    refusal(url)


# -- no password is ever shown -----------------------------------------------------------------------------------------

PIECES = ("48151", "Sesame", "hunter2", "Tr0ub4dor", "n1netyN1ne")
"""What passwords here are made of; none of them stands in any text of ours."""

separators = st.sampled_from(
    ["@", "/", "#", ":", "?", "%", "&", "=", " ", "[", "]", "@@", ":/", "?db=", "\t", "://", ""]
)
passwords = st.builds(
    lambda pieces, between: pieces[0] + "".join(s + p for s, p in zip(between, pieces[1:], strict=False)),
    st.lists(st.sampled_from(PIECES), min_size=2, max_size=4, unique=True),
    st.lists(separators, min_size=3, max_size=3),
)
schemes = st.sampled_from(["redis", "rediss", "unix", "http", "valkey"])
users = st.sampled_from(["", "app", "default"])
places = st.sampled_from(
    ["cache:6390", "cache", "[::1]:6390", "/run/x.sock", "cache/0", "cache/x", "cache:port", ""]
)


def shown_pieces(*texts: str) -> set[str]:
    return {piece for piece in PIECES for text in texts if piece in text}


def everything_shown(url: str) -> list[str]:
    """All texts that people can get to see about *url*."""
    texts = [mask_whole_url(url)]
    # In a text, a password that holds "://" cannot be told from a second URL.
    if not any(map(str.isspace, url)) and url.count("://") == 1:
        texts.append(mask_url(f"the ledger {url} failed"))
    try:
        address = parse(url)
    except ConfigurationError as error:
        texts += [str(error), repr(error), error.problem, error.remedy]
    else:
        texts += [str(address), repr(address)]
    return texts


@given(schemes, users, passwords, places)
@settings(max_examples=400, deadline=None)
def test_no_piece_of_a_percent_encoded_password_is_shown(
    scheme: str, user: str, password: str, place: str
) -> None:
    url = f"{scheme}://{user}:{quote(password, safe='')}@{place}"

    assert shown_pieces(*everything_shown(url)) == set()


@given(schemes, users, passwords, places)
@example("redis", "app", "hunter2@Sesame", "cache:6390")
@example("redis", "app", "48151/Sesame", "cache:6390")
@example("redis", "app", "48151#Sesame", "cache:6390")
@example("redis", "app", "48151?Sesame", "cache:6390")
@example("redis", "app", "hunter2 Sesame", "cache:6390")
@example("redis", "app", "48151?db=Sesame", "cache:6390")
@settings(max_examples=400, deadline=None)
def test_no_piece_of_an_unescaped_password_is_shown(
    scheme: str, user: str, password: str, place: str
) -> None:
    assert shown_pieces(*everything_shown(f"{scheme}://{user}:{password}@{place}")) == set()


@pytest.mark.parametrize(
    "url",
    [
        "app:hunter2@cache:6379",
        ":hunter2@cache:6379",
        "//app:hunter2@cache:6379",
        "redis:app:hunter2@cache:6379",
        "redis:/app:hunter2@cache:6379",
        "redis//app:hunter2@cache:6379",
        "://app:hunter2@cache:6379",
    ],
)
def test_the_password_of_a_url_with_a_broken_scheme_is_not_shown(url: str) -> None:
    assert shown_pieces(refusal(url)) == set()


def test_the_password_in_an_option_is_not_shown() -> None:
    assert shown_pieces(refusal("redis://cache?password=hunter2&db=0")) == set()
    assert shown_pieces(mask_url("postgresql://db/x?sslpassword=hunter2")) == set()


def test_masking_keeps_what_is_no_password() -> None:
    assert mask_url("redis://app:hunter2@cache:6379/2") == "redis://app:***@cache:6379/2"
    assert mask_url("redis://cache:6379/2") == "redis://cache:6379/2"
    assert mask_url("no URL at all: a@b") == "no URL at all: a@b"


def test_every_url_in_a_text_is_masked() -> None:
    text = mask_url("from redis://a:hunter2@blue:1 to redis://b:Sesame@green:2, both up")

    assert shown_pieces(text) == set()
    assert "blue:1" in text
    assert "green:2" in text
