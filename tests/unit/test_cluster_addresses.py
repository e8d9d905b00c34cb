"""URLs of clusters and of Sentinels: several hosts, a master's name, and no password in anything that is shown."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from integrity.address import parse_address
from integrity.cluster.limits import settings_for
from integrity.errors import ConfigurationError
from integrity.settings import EndpointSettings, Settings
from integrity.strategy import Strategy
from integrity.switch.sides import green_as_application, green_url


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    address = parse_address("rediss+cluster://ada:s%40cret@one:7000,[::1]:7001,two", "source.url")

    assert (address.scheme, address.mode) == ("rediss", "cluster")
    assert address.nodes == (("one", 7000), ("::1", 7001), ("two", 6379))
    assert (address.username, address.password, address.database) == ("ada", "s@cret", None)
    assert str(address) == "rediss+cluster://ada@one:7000,[::1]:7001,two:6379"
    assert "cret" not in repr(address)


def test_a_master_is_named_by_its_sentinels() -> None:
    address = parse_address("redis+sentinel://:secret@one,two:26380/my%20shop/3", "source.url")

    assert (address.mode, address.service, address.database) == ("sentinel", "my shop", 3)
    assert address.nodes == (("one", 26379), ("two", 26380))
    assert "secret" not in str(address) + repr(address)


def test_a_node_is_reached_as_the_whole_is() -> None:
    node = parse_address("rediss+cluster://ada:pw@one:7000,two:7001", "source.url").node("ten", 7002)

    assert (node.scheme, node.mode, node.nodes) == ("rediss", "single", (("ten", 7002),))
    assert (node.username, node.password) == ("ada", "pw")


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://one:7000/3",
        "redis+cluster://one:7000,",
        "redis+cluster://one:port",
        "redis+cluster://one:7000,two:port",
        "redis+cluster://",
        "redis+sentinel://one:26379",
        "redis+sentinel://one:26379/",
        "redis+sentinel://one:26379/shop/three",
        "redis+sentinel:///shop",
        "unix+cluster:///run/redis.sock",
        "redis+ring://one",
        "redis+cluster://ada:sec/ret@one:7000",
        "redis+cluster://ada:secret@one:7000,two:7001?option=1",
    ],
)
def test_what_is_no_such_url_is_refused_and_no_password_is_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_address(url, "source.url")

    assert refused.value.remedy
    assert "secret" not in str(refused.value)
    assert "ret@" not in str(refused.value)


def test_dragonflys_own_replication_is_not_chosen_for_what_it_cannot_follow() -> None:
    target = parse_address("redis://green", "target.url")

    source = parse_address("redis+sentinel://one/shop", "source.url")
    assert settings_for(Settings(strategy=Strategy.AUTO), source, target).strategy is Strategy.COPY
    with pytest.raises(ConfigurationError):
        settings_for(Settings(strategy=Strategy.NATIVE), source, target)
    for url in ("redis+cluster://one", "redis://blue"):
        settings = Settings(strategy=Strategy.NATIVE)
        assert settings_for(settings, parse_address(url, "source.url"), target) is settings
    single = Settings(strategy=Strategy.NATIVE)
    assert settings_for(single, parse_address("redis://blue", "source.url"), target) is single


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("redis+cluster://one,two:7000", "redis://one:6379"),
        ("rediss+cluster://shop:a%40b@one:7000,two", "rediss://shop:a%40b@one:7000"),
        ("redis+cluster://[::1]:7000", "redis://[::1]:7000"),
        ("redis://shop@one/0", "redis://shop@one/0"),
    ],
)
def test_applications_are_given_one_node_of_a_green_cluster(url: str, given: str) -> None:
    settings = Settings(target=EndpointSettings(url=SecretStr(url)))

    assert green_url(settings) == given
    assert str(green_as_application(settings)) == str(parse_address(url.partition(",")[0], "target.url"))
