"""Where metrics and traces may go."""

from __future__ import annotations

import pytest

from integrity.errors import ConfigurationError
from integrity.metrics_settings import is_loopback, split_address
from integrity.settings import Settings, load_settings
from reports.metrics import catalogue
from reports.metrics.counting import SHARE, Sparing
from reports.metrics.sheet import Sheet


def load(**overrides: object) -> Settings:
    return load_settings(overrides, environ={}).settings


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9469", "127.0.0.1", 9469), ("[::1]:1", "::1", 1), ("localhost:0", "localhost", 0)],
)
def test_an_address_has_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert is_loopback(host)


@pytest.mark.parametrize(
    "text", ["9469", ":9469", "::1:9469", "127.0.0.1:", "h:65536", "h:x", "h:-1", "h:²", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        load(metrics={"listen": text})


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "example.org", "127.example.org"])  # noqa: S104
def test_an_address_that_others_reach_has_to_be_allowed(host: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_remote"):
        load(metrics={"listen": f"{host}:9469"})
    assert load(metrics={"listen": f"{host}:9469", "allow_remote": True}).metrics.active


def test_the_node_exporter_must_be_able_to_find_the_file() -> None:
    with pytest.raises(ConfigurationError, match=r"\.prom"):
        load(metrics={"textfile": "/var/lib/greenfly.txt"})


@pytest.mark.parametrize(
    "url",
    ["collector:4318", "ftp://c/v1", "http://", "http://me:secret@c/v1/traces", "http://c/v1?key=secret"],
)
def test_a_collector_is_a_url_without_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tracing={"endpoint": url})
    assert "secret" not in str(refused.value).removeprefix("secrets").replace("put secrets", "")


def test_nothing_is_told_by_default() -> None:
    settings = load()
    assert not settings.metrics.active
    assert settings.tracing.endpoint is None


# -- the sheet ---------------------------------------------------------------------------------------------------------


def test_values_of_several_runs_are_merged_as_the_metric_says() -> None:
    sheet = Sheet()
    for lag, dirty, told in ((1.5, 10, 200), (0.5, 5, 100)):
        sheet.put(catalogue.SYNC_LAG, lag, "forward")
        sheet.put(catalogue.SYNC_DIRTY, dirty, "forward")
        sheet.put(catalogue.SYNC_TOLD, told, "forward")
    assert sheet.value(catalogue.SYNC_LAG, "forward") == 1.5
    assert sheet.value(catalogue.SYNC_DIRTY, "forward") == 15
    assert sheet.value(catalogue.SYNC_TOLD, "forward") == 100
    assert sheet.value(catalogue.SYNC_LAG, "backward") is None


def test_a_value_needs_every_label() -> None:
    with pytest.raises(ValueError, match="labels"):
        Sheet().put(catalogue.SYNC_LAG, 1)


@pytest.mark.parametrize("value", [None, "1", True, [1], {}])
def test_what_is_no_number_is_not_told(value: object) -> None:
    sheet = Sheet()
    sheet.put_number(catalogue.HEALTH_CLIENTS, value, "green")
    assert sheet.value(catalogue.HEALTH_CLIENTS, "green") is None


def test_an_answer_that_took_long_is_kept_for_long() -> None:
    now, asked = 0.0, 0

    def find() -> int:
        nonlocal now, asked
        now += 2.0
        asked += 1
        return asked

    sparing: Sparing[int] = Sparing(clock=lambda: now)
    assert sparing.get(find) == 1
    now += 2.0 / SHARE - 1.0
    assert sparing.get(find) == 1
    now += 1.0
    assert sparing.get(find) == 2
