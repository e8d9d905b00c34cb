"""A real Prefect server on loopback, and what a test asks of it over its own HTTP interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from uuid import uuid4

from greenfly.demo.process import end_process, free_port, last_lines

START_SECONDS: Final = 180.0
BUSY_SECONDS: Final = 60.0
Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server that is up."""

    api: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.home)}

    def post(self, path: str, body: object) -> object:
        """Ask something; the answer as JSON, None where there is none."""
        return _ask(
            Request(  # noqa: S310  (our own on loopback)
                f"{self.api}{path}",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
                method="POST",
            )
        )

    def get(self, path: str) -> object:
        """Read something."""
        return _ask(Request(f"{self.api}{path}"))  # noqa: S310

    def resume(self, flow_run_id: str, run_input: Json) -> None:
        """Answer a flow run that is paused."""

        def accepted() -> bool:
            answer = self.post(f"/flow_runs/{flow_run_id}/resume", {"run_input": run_input})
            assert isinstance(answer, dict)
            return str(answer["status"]) == "ACCEPT"

        wait_for(accepted, "the answer is accepted", BUSY_SECONDS)

    def rows(self, path: str, body: object) -> list[dict[str, object]]:
        """A list of tables."""
        found = self.post(path, body)
        assert isinstance(found, list), found
        return found

    def emit(self, event: str, resource: Json, payload: Json) -> None:
        """Post an event."""
        occurred = datetime.now(UTC).isoformat()
        told = {"id": str(uuid4()), "event": event, "occurred": occurred}
        self.post("/events", [told | {"resource": resource, "payload": payload}])

    def events(self, name: str) -> list[dict[str, object]]:
        """The events of this name."""
        found = self.post("/events/filter", {"filter": {"event": {"name": [name]}}})
        assert isinstance(found, dict)
        listed = found["events"]
        assert isinstance(listed, list)
        return listed

    def flow_runs(self, flow: str) -> list[dict[str, object]]:
        """The runs of a flow, oldest first."""
        return self.rows(
            "/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC", "limit": 50}
        )

    def artifacts(self, flow_run_id: object) -> dict[str, dict[str, object]]:
        """The newest artifact of each key that a flow run published."""
        found = self.rows(
            "/artifacts/filter",
            {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "CREATED_DESC", "limit": 50},
        )
        return {str(one["key"]): one for one in reversed(found)}

    def has_deployment(self, flow: str) -> bool:
        """Whether it is there by now."""
        try:
            return bool(self._deployment(flow))
        except HTTPError:
            return False

    def run_deployment(self, flow: str, parameters: Json) -> str:
        """Start a deployment now; the flow run's id."""
        run = self.post(
            f"/deployments/{self._deployment(flow)}/create_flow_run",
            {"parameters": {"parameters": parameters}, "state": {"type": "SCHEDULED"}},
        )
        assert isinstance(run, dict)
        return str(run["id"])

    def pause_deployment(self, flow: str) -> None:
        """No run of it is scheduled any more."""
        self.post(f"/deployments/{self._deployment(flow)}/pause_deployment", {})

    def _deployment(self, flow: str) -> str:
        return _field(self.get(f"/deployments/name/{flow}/default"), "id")

    def states(self, flow_run_id: str) -> list[str]:
        """The types of all states that a flow run has had."""
        found = self.get(f"/flow_run_states/?flow_run_id={flow_run_id}")
        assert isinstance(found, list)
        return [_field(state, "type") for state in found]

    def state(self, flow_run_id: str) -> str:
        """``COMPLETED``, ``PAUSED`` and so on."""
        return _field(self.get(f"/flow_runs/{flow_run_id}"), "state_type")


def _field(table: object, name: str) -> str:
    assert isinstance(table, dict), table
    return str(table[name])


def _ask(request: Request) -> object:
    """The answer as JSON.  While Prefect's database is busy it says 503, and its own clients ask again as well."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with urlopen(request, timeout=BUSY_SECONDS) as answer:  # noqa: S310
                text = answer.read()
        except HTTPError as error:
            with error:
                if error.code != 503 or time.monotonic() > until:
                    raise
            time.sleep(0.5)
        else:
            return json.loads(text) if text else None


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll until *condition* holds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@contextmanager
def prefect_server(folder: Path) -> Iterator[PrefectServer]:
    """Start one; it ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = PrefectServer(f"http://127.0.0.1:{free_port()}/api", folder)
    port = server.api.rsplit(":", 1)[1].removesuffix("/api")
    environment = {
        **os.environ,
        **server.environment,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    del environment["PREFECT_API_URL"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "greenfly.prefect_server",
                "start",
                "--host",
                "127.0.0.1",
                "--port",
                port,
                "--no-ui",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _is_up(server, process), f"Prefect is up; its log: {last_lines(log)}", START_SECONDS)
        yield server
    finally:
        end_process(process)


def _is_up(server: PrefectServer, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prefect's server ended"
    try:
        with urlopen(f"{server.api}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
