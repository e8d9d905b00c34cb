"""A stand-in for a Kubernetes API server: the few requests that a switch makes, over TLS, with their real semantics.

Resource versions rise with every change and with nothing else, a patch that names an old one is a conflict, a change of
a pod template raises the generation, and the controllers get on by one step whenever the workload is looked at.
"""

from __future__ import annotations

import json
import ssl
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from time import sleep
from types import TracebackType
from typing import ClassVar, Final, Self, TypeAlias, cast

from tests.tls import make_tls_pair

TOKEN: Final = "a.token-of-the_tests"
NAMESPACE: Final = "shop"
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | bool | None"
Object: TypeAlias = dict[str, Json]
ROLLOUT_STEPS: Final = 4
"""Looks at a workload until its rollout is complete."""


@dataclass(slots=True)
class KubernetesApi:
    """Serves what :attr:`objects` holds, by path; a context manager."""

    folder: Path
    objects: dict[str, Object] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of each."""
    token: str = TOKEN
    forbidden: set[str] = field(default_factory=set)
    """``GET /path`` and ``PATCH /path`` that are answered with 403."""
    answers: list[int] = field(default_factory=list)
    """Statuses that the next requests get instead of an answer."""
    lost: list[str] = field(default_factory=list)
    """Methods whose next request is carried out, and its answer lost."""
    stalled: set[str] = field(default_factory=set)
    """Paths of workloads whose rollout never gets on and exceeds its deadline."""
    delay: float = 0.0
    """Seconds before each answer."""
    _version: int = 1000
    _lock: Lock = field(default_factory=Lock)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        pair = make_tls_pair(self.folder)
        (self.folder / "token").write_text(self.token + "\n")
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert_file, pair.key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return self._server.server_address[1] if self._server else 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"https://127.0.0.1:{self.port}"

    # -- what it holds ----------------------------------------------------------------------------------------------

    def add_configuration(self, resource: str, name: str, data: dict[str, str] | None, **more: Json) -> str:
        """A ConfigMap or Secret, and its path."""
        path = f"/api/v1/namespaces/{NAMESPACE}/{resource}s/{name}"
        held: Object = {"metadata": {"name": name, "resourceVersion": self._next()}, **more}
        if data is not None:
            held["data"] = dict(data)
        self.objects[path] = held
        return path

    def add_workload(self, kind: str, name: str, *, env: list[Json] | None = None, **spec: Json) -> str:
        """A Deployment or StatefulSet of three pods whose rollouts are complete, and its path."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}s/{name}"
        container: Object = {"name": "main", "env": env or []}
        whole: Object = {
            "replicas": 3,
            "template": {"metadata": {}, "spec": {"containers": [container]}},
            **spec,
        }
        if kind == "statefulset":
            whole.setdefault("updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        self.objects[path] = {
            "metadata": {"name": name, "resourceVersion": self._next(), "generation": 1},
            "spec": whole,
            "status": self._status(kind == "statefulset", 1, ROLLOUT_STEPS, ROLLOUT_STEPS),
        }
        return path

    def data(self, path: str) -> dict[str, str]:
        """The entries of a ConfigMap or Secret."""
        return cast(dict[str, str], self.objects[path].get("data") or {})

    def annotations(self, path: str) -> dict[str, str]:
        """What the pod template of a workload is marked with."""
        template = cast(Object, cast(Object, self.objects[path]["spec"])["template"])
        return cast(dict[str, str], cast(Object, template["metadata"]).get("annotations") or {})

    def generation(self, path: str) -> int:
        """How often a workload's specification was changed."""
        return cast(int, cast(Object, self.objects[path]["metadata"])["generation"])

    def touch(self, path: str, data: dict[str, str]) -> None:
        """What somebody else does."""
        with self._lock:
            self._merge_into(path, {"data": cast(Json, data)})

    # -- what it does -----------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, token: str | None, body: Object | None) -> tuple[int, Object]:
        """Status and object for one request."""
        with self._lock:
            self.requests.append(f"{method} {path}")
            path, _, query = path.partition("?")
            if self.answers:
                return self.answers.pop(0), {
                    "kind": "Status",
                    "reason": "Asked",
                    "message": "a secret: hunter2",
                }
            if token != f"Bearer {self.token}":
                return 401, {"kind": "Status", "reason": "Unauthorized"}
            if f"{method} {path}" in self.forbidden:
                return 403, {"kind": "Status", "reason": "Forbidden"}
            held = self.objects.get(path)
            if held is None:
                return 404, {"kind": "Status", "reason": "NotFound"}
            if body is None:
                if path.startswith("/apis/apps"):
                    self._get_on(path)
                return 200, deepcopy(held)
            named = cast(Object, body.get("metadata") or {}).get("resourceVersion")
            if named is not None and named != cast(Object, held["metadata"])["resourceVersion"]:
                return 409, {"kind": "Status", "reason": "Conflict"}
            if held.get("immutable") and "data" in body:
                return 422, {"kind": "Status", "reason": "Invalid", "message": "a secret: hunter2"}
            if query == "dryRun=All":
                return 200, cast(Object, merged(held, body))
            self._merge_into(path, body)
            return 200, deepcopy(self.objects[path])

    def _next(self) -> str:
        self._version += 7
        return str(self._version)

    def _merge_into(self, path: str, body: Object) -> None:
        held = self.objects[path]
        changed = cast(Object, merged(held, body))
        if changed == held:
            return
        metadata = cast(Object, changed["metadata"])
        metadata["resourceVersion"] = self._next()
        if changed.get("spec") != held.get("spec"):
            metadata["generation"] = cast(int, metadata["generation"]) + 1
        self.objects[path] = changed

    def _get_on(self, path: str) -> None:
        """One step of a rollout: seen, one pod replaced, all replaced, all available and the old ones gone."""
        held = self.objects[path]
        generation = self.generation(path)
        status = cast(Object, held["status"])
        step = cast(int, status["step"]) if status["rolling"] == generation else -1
        ordered = path.split("/")[-2] == "statefulsets"
        if path in self.stalled and step >= 1:
            step = 1
            held["status"] = self._status(ordered, generation, step, ROLLOUT_STEPS)
            cast(Object, held["status"])["conditions"] = [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            ]
            return
        if step < ROLLOUT_STEPS:
            held["status"] = self._status(ordered, generation, step + 1, ROLLOUT_STEPS)

    @staticmethod
    def _status(ordered: bool, generation: int, step: int, steps: int) -> Object:
        updated = {0: 3, 1: 0, 2: 1, 3: 3, steps: 3}[step]
        common: Object = {
            "rolling": generation,
            "step": step,
            "observedGeneration": generation if step else generation - 1,
            "updatedReplicas": updated,
            "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}],
        }
        if ordered:
            new = f"revision-{generation}"
            old = new if step == steps else f"revision-{generation - 1}"
            return common | {
                "replicas": 3,
                "readyReplicas": 3 if step in (0, steps) else 2,
                "currentRevision": old,
                "updateRevision": new,
            }
        return common | {
            "replicas": 3 if step in (0, steps) else 4,
            "readyReplicas": 3,
            "availableReplicas": 3 if step in (0, 1, steps) else 2,
        }


def merged(target: Json, patch: Json) -> Json:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result: Object = deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class _Handler(BaseHTTPRequestHandler):
    served: ClassVar[KubernetesApi]

    def do_GET(self) -> None:
        self._answer(None)

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Type"] != "application/merge-patch+json":
            self._send(415, {"kind": "Status", "reason": "UnsupportedMediaType"})
            return
        self._answer(cast(Object, json.loads(body)))

    def _answer(self, body: Object | None) -> None:
        api = self.served
        sleep(api.delay)
        status, answer = api.answer(self.command, self.path, self.headers["Authorization"], body)
        if self.command in api.lost:
            api.lost.remove(self.command)
            self.close_connection = True
            self.connection.close()
            return
        with suppress(OSError):  # Whoever asked may not have waited.
            self._send(status, answer)

    def _send(self, status: int, answer: Object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
