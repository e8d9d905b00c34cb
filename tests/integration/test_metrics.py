"""Metrics and traces of real runs: served, written, sent; and what happens where nobody listens."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from greenfly.demo.process import free_port
from integrity.errors import ConfigurationError
from integrity.ledger import open_ledger
from integrity.settings import load_settings
from reports.metrics import catalogue as c
from reports.metrics.exporter import Exporter
from reports.metrics.telling import served, write_text_file
from tests.cli import Greenfly
from tests.ledger import Postgres, place
from tests.servers import Store
from tests.unit.test_demo_compose import listed, services, table

KEYS: Final = 6_000
EVERYWHERE: Final = "0.0.0.0:0"
_SECONDS: Final = 30.0

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def filled(blue: Store) -> Store:
    """Blue with keys of one kind."""
    blue.client.mset({f"key:{number}": f"value {number}" for number in range(KEYS)})
    return blue


def parsed(text: str) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float | None:
    return values.get((name, frozenset(labels.items())))


def scrape(url: str) -> Values:
    with urlopen(url, timeout=10) as answer:  # noqa: S310  (our own process)
        return parsed(answer.read().decode())


def wait_for(found: Callable[[], bool], what: str) -> None:
    until = monotonic() + _SECONDS
    while not found():
        assert monotonic() < until, f"it did not come to this: {what}"
        sleep(0.1)


def url_of(serving: subprocess.Popen[str]) -> str:
    """What `greenfly metrics serve` says it serves at."""
    assert serving.stdout is not None
    line = serving.stdout.readline().strip()
    assert line.startswith("http://"), serving.stderr.read() if serving.stderr else line
    return line


def migration(blue: Store, green: Store) -> tuple[str, ...]:
    return ("migrate", "--source", blue.url, "--target", green.url, "--no-snapshot")


# -- served ------------------------------------------------------------------------------------------------------------


def test_a_run_is_seen_to_move_by_an_exporter_beside_it(
    greenfly: Greenfly, filled: Store, green_redis: Store
) -> None:
    serving = greenfly.start("metrics", "serve", "--listen", "127.0.0.1:0")
    url = url_of(serving)
    assert value(scrape(url), "greenfly_ledger_up") == 1
    running = greenfly.start(*migration(filled, green_redis), "--keys-per-second", "2000", "--json")
    seen: list[float] = []

    def moved() -> bool:
        keys = value(scrape(url), "greenfly_phase_keys_total", kind="migrate", phase="stream")
        if keys and keys not in seen:
            seen.append(keys)
        return len(seen) > 1 or running.poll() is not None

    wait_for(moved, "the stream phase moves")
    assert len(seen) > 1
    assert seen[0] < seen[1] <= KEYS

    def held() -> bool:
        why = {"kind": "migrate", "phase": "stream", "reason": "cap on keys"}
        return bool(value(scrape(url), "greenfly_throttle_wait_seconds", **why))

    wait_for(held, "what holds it back")
    assert running.poll() is None
    assert value(scrape(url), "greenfly_run_keys_per_second_limit", kind="migrate") == 2000
    assert running.wait(60) == 0

    def over() -> bool:
        return value(scrape(url), "greenfly_run_verdict", kind="migrate", verdict="PASS") == 1

    wait_for(over, "the verdict")
    last = scrape(url)
    assert value(last, "greenfly_phase_keys_total", kind="migrate", phase="stream") == KEYS
    assert value(last, "greenfly_run_state", kind="migrate", state="running") == 0
    waited = value(
        last, "greenfly_throttle_wait_seconds", kind="migrate", phase="stream", reason="cap on keys"
    )
    assert waited is not None
    assert waited > 1
    assert value(last, "greenfly_audit_chain_intact") == 1
    file = greenfly.folder / "greenfly.prom"
    file.write_text("what was there before")
    assert greenfly("metrics", "write", str(file)).exit_code == 0
    written = parsed(file.read_text())
    assert value(written, "greenfly_phase_keys_total", kind="migrate", phase="verify") == KEYS
    assert [path.name for path in greenfly.folder.iterdir() if ".prom" in path.name] == ["greenfly.prom"]
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(10) == 128 + signal.SIGTERM


def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_an_address_that_others_reach_is_refused_unless_it_is_wanted() -> None:
    with (
        pytest.raises(ConfigurationError, match="loopback"),
        served(registry(), EVERYWHERE, allow_remote=False),
    ):
        pytest.fail("it serves")
    with served(registry(), EVERYWHERE, allow_remote=True) as port:
        assert scrape(f"http://127.0.0.1:{port}/metrics") == {}


def test_an_address_in_use_is_refused_and_free_again_afterwards() -> None:
    with served(registry(), "127.0.0.1:0", allow_remote=False) as port:
        taken = served(registry(), f"127.0.0.1:{port}", allow_remote=False)
        with pytest.raises(ConfigurationError, match="in use"), taken:
            pytest.fail("it serves")
    with served(registry(), f"127.0.0.1:{port}", allow_remote=False) as again:
        assert again == port


# -- by the run itself -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Collector:
    """An OpenTelemetry collector that keeps what it is sent."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)


@pytest.fixture
def collector() -> Iterator[Collector]:
    kept = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal is the tests'."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_serves_writes_and_sends_by_itself(
    greenfly: Greenfly, filled: Store, green_redis: Store, tmp_path: Path, collector: Collector
) -> None:
    trace_service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="greenfly[tracing] is not installed",
    )
    file, port = tmp_path / "greenfly.prom", free_port()
    told = {
        "GREENFLY_METRICS__LISTEN": f"127.0.0.1:{port}",
        "GREENFLY_METRICS__TEXTFILE": str(file),
        "GREENFLY_METRICS__EVERY_SECONDS": "1",
        "GREENFLY_TRACING__ENDPOINT": collector.url,
    }
    running = greenfly.start(*migration(filled, green_redis), "--keys-per-second", "4000", "--json", env=told)

    def written() -> bool:
        moved = value(
            parsed(file.read_text()) if file.exists() else {},
            "greenfly_phase_keys_total",
            kind="migrate",
            phase="stream",
        )
        return bool(moved)

    wait_for(written, "the file tells of keys")
    assert value(scrape(f"http://127.0.0.1:{port}/metrics"), "greenfly_ledger_up") == 1
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    run_id = json.loads(out)["run"]
    last = parsed(file.read_text())
    assert value(last, "greenfly_run_verdict", kind="migrate", verdict="PASS") == 1
    assert [path.name for path in tmp_path.iterdir() if ".prom" in path.name] == ["greenfly.prom"]

    names: list[str] = []
    attributes: dict[str, str] = {}
    for body in collector.bodies:
        request = trace_service.ExportTraceServiceRequest.FromString(body)
        for spans in (scope.spans for resource in request.resource_spans for scope in resource.scope_spans):
            names += [span.name for span in spans]
            attributes |= {a.key: a.value.string_value for span in spans for a in span.attributes}
    assert names.count("greenfly migrate") == 1
    assert {"phase check", "phase stream", "phase verify"} <= set(names)
    assert names.count("batch") >= 2
    assert attributes["greenfly.run.id"] == run_id
    assert attributes["greenfly.run.verdict"] == "PASS"
    everything = b"".join(collector.bodies)
    assert b"key:" not in everything
    assert filled.url.encode() not in everything


@pytest.fixture
def busy_port() -> Iterator[int]:
    with served(registry(), "127.0.0.1:0", allow_remote=False) as port:
        yield port


def test_what_cannot_be_told_is_said_and_ends_nothing(
    greenfly: Greenfly, filled: Store, green_redis: Store, tmp_path: Path, busy_port: int
) -> None:
    told = {
        "GREENFLY_METRICS__LISTEN": f"127.0.0.1:{busy_port}",
        "GREENFLY_METRICS__TEXTFILE": str(tmp_path / "no folder" / "greenfly.prom"),
        "GREENFLY_TRACING__ENDPOINT": f"http://127.0.0.1:{free_port()}/v1/traces",
        "GREENFLY_TRACING__TIMEOUT_SECONDS": "1",
    }
    done = greenfly(*migration(filled, green_redis), env=told)
    assert done.exit_code == 0, done.stderr
    assert len(re.findall("Metrics are not served", done.stderr)) == 1
    assert len(re.findall("no folder", done.stderr)) == 1
    assert len(re.findall("spans were not taken", done.stderr)) == 1
    assert "Traceback" not in done.stderr


# -- written -----------------------------------------------------------------------------------------------------------


def test_a_file_that_nobody_named_or_that_cannot_be_is_refused(greenfly: Greenfly, tmp_path: Path) -> None:
    assert greenfly("metrics", "write").exit_code == 2
    with pytest.raises(ConfigurationError, match="missing"):
        write_text_file(registry(), tmp_path / "missing" / "greenfly.prom")
    folder = tmp_path / "folder.prom"
    folder.mkdir()
    with pytest.raises(ConfigurationError):
        write_text_file(registry(), folder)
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["folder.prom"]


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_a_ledger_that_is_away_is_told_soon_and_so_is_its_return(
    tmp_path: Path, own_postgres: Postgres
) -> None:
    url = own_postgres.database().render_as_string(hide_password=False)
    settings = load_settings(place(tmp_path / "state", url), environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        ledger.record_event("note", {})
    assert own_postgres.stop is not None
    assert own_postgres.start_again is not None
    said: list[str] = []
    with closing(Exporter(settings, said.append)) as exporter:
        assert exporter.sheet().value(c.AUDIT_EVENTS) == 1
        own_postgres.stop()
        exporter.forget()
        begun = monotonic()
        away = exporter.sheet()
        assert monotonic() - begun < 5
        assert away.value(c.LEDGER_UP) == 0
        assert away.value(c.AUDIT_EVENTS) is None
        own_postgres.start_again()
        exporter.forget()
        assert exporter.sheet().value(c.AUDIT_EVENTS) == 1
    assert len(said) == 2
    assert url.split("@", maxsplit=1)[0] not in said[0]


def test_the_services_of_compose_do_as_processes_what_they_do_as_containers(
    greenfly: Greenfly, filled: Store, green_redis: Store, postgres_ledger: str
) -> None:
    def environment(name: str) -> dict[str, str]:
        named = {str(k): str(v) for k, v in table(services()[name]["environment"]).items()}
        here = {
            "GREENFLY_SOURCE__URL": filled.url,
            "GREENFLY_TARGET__URL": green_redis.url,
            "GREENFLY_LEDGER_URL": postgres_ledger,
        }
        # The servers of the tests have no password.
        return {k: here.get(k, v) for k, v in named.items() if not k.endswith("PASSWORD")}

    port = free_port()
    command = [
        word.replace("0.0.0.0:9469", f"127.0.0.1:{port}")
        for word in listed(services()["exporter"]["command"])
    ]
    url = url_of(greenfly.start(*command, env=environment("exporter")))
    done = greenfly(*listed(services()["pipeline"]["command"]), env=environment("pipeline"))
    assert done.exit_code == 0, done.stderr
    sleep(1.1)
    assert value(scrape(url), "greenfly_run_verdict", kind="migrate", verdict="PASS") == 1
    check = listed(table(services()["exporter"]["healthcheck"])["test"])
    assert check[:2] == ["CMD", "python"]
    healthy = [sys.executable, *(part.replace(":9469", f":{port}") for part in check[2:])]
    assert subprocess.run(healthy, check=False, timeout=30).returncode == 0
    nobody = [part.replace(f":{port}", f":{free_port()}") for part in healthy]
    assert subprocess.run(nobody, check=False, timeout=30, stderr=subprocess.DEVNULL).returncode != 0
    assert not [name for name in os.listdir(greenfly.state_dir) if name.startswith("ledger.sqlite")]
