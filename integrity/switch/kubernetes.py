"""An environment in a Kubernetes ConfigMap or Secret, over the API server's own REST interface.

A change names the resource version that it was read at, so of two writers one wins.  Containers read their environment
when they start: after the change the pod template of each named workload is marked, as ``kubectl rollout restart``
does, and its rollout is followed as ``kubectl rollout status`` does.  The mark carries the resource version, so a write
that is repeated after a crash restarts what was not restarted yet and nothing else.

Answers are read into models that know nothing but what is used.  What the API server says in words is never repeated:
an admission webhook, say, may quote a value.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from integrity.errors import ConfigurationError
from integrity.switch.environment import (
    Changes,
    EnvironmentChanged,
    EnvironmentFailed,
    EnvironmentState,
    holds,
)
from integrity.switch.settings import VARIABLE_PATTERN, KubernetesSettings

ACCOUNT_FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
ENVIRONMENT_VERSION: Final = "greenfly-environment-version"
_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""More than any object can have; etcd takes 1.5 MiB."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_REASON: Final = re.compile(r"[A-Za-z]{1,60}")


class ApiUnavailable(EnvironmentFailed):
    """No answer, or one that says to come again later; whether a patch was applied is not known."""


class Conflict(ApiUnavailable):
    """The object was changed meanwhile: it is no longer at the resource version that a patch names."""


# -- objects ---------------------------------------------------------------------------------------------------------


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _Metadata(_Part):
    resource_version: str = ""
    generation: int = 0
    annotations: dict[str, str] = {}


class Configuration(_Part):
    """A ConfigMap or a Secret."""

    metadata: _Metadata
    data: dict[str, str] | None = None
    immutable: bool = False


class _KeyReference(_Part):
    name: str = ""
    key: str = ""
    optional: bool = False


class _Source(_Part):
    config_map_key_ref: _KeyReference | None = None
    secret_key_ref: _KeyReference | None = None


class _Variable(_Part):
    name: str
    value_from: _Source | None = None


class _Container(_Part):
    env: tuple[_Variable, ...] = ()


class _PodSpec(_Part):
    containers: tuple[_Container, ...] = ()
    init_containers: tuple[_Container, ...] = ()


class _Template(_Part):
    metadata: _Metadata = _Metadata()
    spec: _PodSpec = _PodSpec()


class _RollingUpdate(_Part):
    partition: int = 0


class _UpdateStrategy(_Part):
    type: str = "RollingUpdate"
    rolling_update: _RollingUpdate | None = None


class _WorkloadSpec(_Part):
    replicas: int = 1
    paused: bool = False
    update_strategy: _UpdateStrategy | None = None
    """Only a StatefulSet has one."""
    template: _Template = _Template()


class _Condition(_Part):
    type: str
    reason: str = ""


class _WorkloadStatus(_Part):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    conditions: tuple[_Condition, ...] = ()


class Workload(_Part):
    """A Deployment or a StatefulSet."""

    metadata: _Metadata
    spec: _WorkloadSpec
    status: _WorkloadStatus = Field(default_factory=_WorkloadStatus)

    def entries_not_from(self, resource: Literal["configmap", "secret"], name: str) -> set[str]:
        """Variables that a container sets otherwise than by an optional reference to *resource* *name*."""
        found = set()
        for container in (*self.spec.template.spec.containers, *self.spec.template.spec.init_containers):
            for variable in container.env:
                source = variable.value_from or _Source()
                reference = source.config_map_key_ref if resource == "configmap" else source.secret_key_ref
                if reference != _KeyReference(name=name, key=variable.name, optional=True):
                    found.add(variable.name)
        return found

    @property
    def does_not_roll_out(self) -> str:
        """Why a change of its template does not reach every pod; empty where it does."""
        strategy = self.spec.update_strategy or _UpdateStrategy()
        if self.spec.paused:
            return "is paused, so a change would not be rolled out"
        if strategy.type != "RollingUpdate":
            return f"has the update strategy {strategy.type}, so its pods would not be restarted"
        if strategy.rolling_update is not None and strategy.rolling_update.partition:
            return "is rolled out up to a partition only, so some pods would stay as they are"
        return ""

    @property
    def progress_deadline_exceeded(self) -> bool:
        """Whether its controller has given up waiting."""
        return self._observed and any(
            condition.type == "Progressing" and condition.reason == "ProgressDeadlineExceeded"
            for condition in self.status.conditions
        )

    @property
    def waits_for(self) -> str:
        """What its rollout waits for; empty once it is complete.  The conditions are those of kubectl."""
        spec, status = self.spec, self.status
        if not self._observed:
            return "for its controller to see the change"
        if status.updated_replicas < spec.replicas:
            return f"for {spec.replicas - status.updated_replicas} of {spec.replicas} pods to be replaced"
        if spec.update_strategy is not None:
            if status.ready_replicas < spec.replicas:
                return f"for {spec.replicas - status.ready_replicas} of {spec.replicas} pods to be ready"
            if status.update_revision != status.current_revision:
                return "for the last pods of the revision before"
            return ""
        if status.replicas > status.updated_replicas:
            return f"for {status.replicas - status.updated_replicas} old pods to end"
        if status.available_replicas < status.updated_replicas:
            return f"for {status.updated_replicas - status.available_replicas} new pods to be available"
        return ""

    @property
    def _observed(self) -> bool:
        return 0 < self.metadata.generation <= self.status.observed_generation


Object = TypeVar("Object", bound=_Part)

# -- requests --------------------------------------------------------------------------------------------------------


class ApiServer:
    """One API server; each request is a connection of its own, with the token as it is in its file then.

    :param timeout: seconds to wait for the connection and for each piece of the answer.
    :raises ConfigurationError: the CA file cannot be used.
    """

    def __init__(self, url: str, *, token_file: Path, ca_file: Path | None, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigurationError(
                "switch.kubernetes.server is no https:// URL.", "Write https://host:6443."
            )
        self._host, self._port, self._base = parts.hostname, parts.port or 443, parts.path.rstrip("/")
        self._token_file = token_file
        self._timeout = timeout
        try:
            self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"The CA file {ca_file} cannot be used ({error.strerror or error}).",
                "Set switch.kubernetes.ca_file to the cluster's CA certificates (PEM).",
            ) from error

    @property
    def where(self) -> str:
        """Host and port."""
        return f"{self._host}:{self._port}"

    def get(self, path: str, what: str, kind: type[Object]) -> Object:
        """The object at *path*; *what* is its name for people.

        :raises EnvironmentFailed: refused, or not understood; :class:`ApiUnavailable` where it may be tried again.
        """
        return self._parse(self._request("GET", path, what, None), what, kind)

    def patch(
        self, path: str, what: str, body: Mapping[str, object], kind: type[Object], *, dry_run: bool = False
    ) -> Object:
        """Merge *body* into the object at *path* (RFC 7396), and return what it is then.

        :param dry_run: everything is checked, nothing is kept.

        :raises Conflict: the object is at another resource version than *body* names.
        :raises EnvironmentFailed: refused, or not understood; :class:`ApiUnavailable` where it may be tried again.
        """
        query = "?dryRun=All" if dry_run else ""
        return self._parse(self._request("PATCH", path + query, what, json.dumps(body).encode()), what, kind)

    def _parse(self, answer: bytes, what: str, kind: type[Object]) -> Object:
        try:
            return kind.model_validate_json(answer)
        except ValidationError as error:
            # Its text quotes the input, which may be a secret.
            places = sorted(
                {".".join(str(part) for part in e["loc"]) for e in error.errors(include_input=False)}
            )
            raise EnvironmentFailed(
                f"The API server {self.where} answered with {what} in a form that is not understood "
                f"({', '.join(places[:3]) or 'no JSON'}).",
                "Check switch.kubernetes.server.",
            ) from None

    def _request(self, method: Literal["GET", "PATCH"], path: str, what: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._tls
        )
        try:
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
            answer = response.read(_ANSWER_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise EnvironmentFailed(
                f"The certificate of the API server {self.where} is not trusted ({error.verify_message}).",
                "Set switch.kubernetes.ca_file to the cluster's CA, and use a host name that the certificate carries.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            # An HTTPException may quote what it was sent.
            detail = (error.strerror or str(error)) if isinstance(error, OSError) else "no HTTP"
            raise ApiUnavailable(
                f"The API server {self.where} gave no answer about {what} ({detail}).",
                "Check switch.kubernetes.server and the network. Repeating this does no harm.",
            ) from error
        finally:
            connection.close()
        if response.status in (200, 201):
            return answer
        raise self._refusal(method, what, response.status, answer)

    def _token(self) -> str:
        try:
            token = self._token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise EnvironmentFailed(
                f"The token file {self._token_file} cannot be read ({detail}).",
                "Set switch.kubernetes.token_file to a file that holds the token of a service account.",
            ) from None
        if not _TOKEN.fullmatch(token):
            raise EnvironmentFailed(
                f"The token file {self._token_file} holds no token.", "It is one line without spaces."
            )
        return token

    def _refusal(self, method: str, what: str, status: int, answer: bytes) -> EnvironmentFailed:
        verb = method.lower()
        match status:
            case 409:
                return Conflict(f"{what} was changed at the same moment.", "Repeating this does no harm.")
            case 401:
                return EnvironmentFailed(
                    f"The API server {self.where} does not accept the token.",
                    "It may have expired: `kubectl create token NAME` makes one for switch.kubernetes.token_file.",
                )
            case 403:
                return EnvironmentFailed(
                    f"The service account may not {verb} {what}.",
                    "Give it a Role with the verbs get and patch on it; docs/environment-switch.md shows one.",
                )
            case 404:
                return EnvironmentFailed(
                    f"{what} does not exist on {self.where}.",
                    "Check its name and switch.kubernetes.namespace.",
                )
            case 429 | 500 | 502 | 503 | 504:
                return ApiUnavailable(
                    f"The API server {self.where} could not {verb} {what} (status {status}).",
                    "Look at its health. Repeating this does no harm.",
                )
            case _:
                return EnvironmentFailed(
                    f"The API server {self.where} refused to {verb} {what} (status {status}{_reason(answer)}).",
                    "Look at the object, at admission webhooks, and at switch.kubernetes.server.",
                )


class _Status(_Part):
    reason: str = ""


def _reason(answer: bytes) -> str:
    """The one word that a refusal gives as its reason."""
    try:
        reason = _Status.model_validate_json(answer).reason
    except ValidationError:
        return ""
    return f", {reason}" if _REASON.fullmatch(reason) else ""


# -- the switch ----------------------------------------------------------------------------------------------------


class KubernetesSwitch:
    """A ConfigMap or Secret as an :class:`~integrity.switch.environment.EnvironmentSwitch`.

    :param environ: where the address of the cluster's own API server is looked for.
    :param account: the folder of the pod's service account.
    :raises ConfigurationError: what is not set is not there to be found either, or a file cannot be used.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        environ: Mapping[str, str] = os.environ,
        account: Path = ACCOUNT_FOLDER,
    ) -> None:
        if settings.name is None:
            raise ConfigurationError("switch.kubernetes.name is not set.", "Name the ConfigMap or Secret.")
        self._settings = settings
        namespace = settings.namespace or _own_namespace(account)
        authority = account / "ca.crt"
        self._api = ApiServer(
            settings.server or _own_server(environ),
            token_file=settings.token_file or account / "token",
            ca_file=settings.ca_file or (authority if authority.exists() else None),
            timeout=settings.timeout,
        )
        self._secret = settings.resource == "secret"
        self._what = f"{settings.resource} {namespace}/{settings.name}"
        self._path = f"/api/v1/namespaces/{namespace}/{settings.resource}s/{settings.name}"
        self._workloads = {
            workload: f"/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}"
            for workload in settings.workloads
            for kind, _, name in [workload.partition("/")]
        }
        self._written: Changes | None = None

    @property
    def name(self) -> str:
        """The kind, namespace and name."""
        return f"kubernetes {self._what}"

    def read(self) -> EnvironmentState:
        """Every entry; the version is the resource version.

        :raises EnvironmentFailed: the API server cannot be reached or refuses.
        """
        return self._state(self._read())

    def check(self, changes: Changes) -> None:
        """Have the API server try every change without keeping it (``dryRun``).

        :raises EnvironmentFailed: as :meth:`write`.
        """
        present, workloads = self._look(changes)
        state = self._state(present)
        self._patch(state, changes, dry_run=True)
        for workload in workloads:
            self._restart(workload, state, dry_run=True)

    def write(self, expected: EnvironmentState, changes: Changes) -> EnvironmentState:
        """Change the entries, and begin the rollout of each workload; the API server has stored both when it returns.

        :raises EnvironmentChanged: the object is at another resource version than *expected*.
        :raises EnvironmentFailed: refused, not reached, or a workload would not follow the change.
        """
        present, workloads = self._look(changes)
        state = self._state(present)
        if not holds(state.values, changes):
            if state.version != expected.version:
                raise self._changed()
            state = self._patch(state, changes)
        self._written = dict(changes)
        for workload, found in workloads.items():
            if found.spec.template.metadata.annotations.get(ENVIRONMENT_VERSION) != state.version:
                self._restart(workload, state)
        return state

    def confirm(self, timeout: float) -> str:
        """Wait for the rollout of every workload, as ``kubectl rollout status`` does.

        Pods that are being stopped do not count, and may run on for their grace period.

        :raises EnvironmentFailed: the API server refuses, or cannot be reached for the whole *timeout*.
        """
        if self._written is None:
            return "Nothing was written here that could be confirmed."
        deadline = monotonic() + timeout
        waiting = list(self._workloads)
        while True:
            said = ""
            try:
                if not holds(self.read().values, self._written):
                    return f"{self._what} no longer holds what was written; somebody else changed it."
                while waiting and not said:
                    found = self._workload(waiting[0])
                    if found.progress_deadline_exceeded:
                        return f"The rollout of {waiting[0]} has exceeded its progress deadline."
                    said = found.waits_for
                    if not said:
                        waiting.pop(0)
            except ApiUnavailable:
                # An API server may be away for a moment during a rollout; only at the end does it matter.
                if monotonic() >= deadline:
                    raise
                said = "for the API server"
            if not said:
                return ""
            if monotonic() >= deadline:
                return f"The rollout of {waiting[0]} is not complete after {timeout:g} s: it waits {said}."
            sleep(min(self._settings.poll_seconds, max(0.0, deadline - monotonic())))

    # -- the object -------------------------------------------------------------------------------------------------

    def _look(self, changes: Changes) -> tuple[Configuration, dict[str, Workload]]:
        """What is there now; refuses what would not follow *changes*, before anything is written."""
        for name in changes:
            if not re.fullmatch(VARIABLE_PATTERN, name):
                raise EnvironmentFailed(f"{name!r} is no name of a variable.", "Use letters, digits and _.")
        present = self._read()
        workloads = {workload: self._workload(workload) for workload in self._workloads}
        for workload, found in workloads.items():
            self._check(workload, found, changes)
        if present.immutable and not holds(self._state(present).values, changes):
            raise EnvironmentFailed(
                f"{self._what} is immutable.", "Name another one, and let the workloads read that."
            )
        return present, workloads

    def _read(self) -> Configuration:
        return self._api.get(self._path, self._what, Configuration)

    def _state(self, found: Configuration) -> EnvironmentState:
        values = dict(found.data or {})
        if self._secret:
            values = {name: self._decoded(name, value) for name, value in values.items()}
        return EnvironmentState(values, found.metadata.resource_version)

    def _decoded(self, name: str, value: str) -> str:
        try:
            return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape")
        except binascii.Error:
            raise EnvironmentFailed(
                f"The entry {name} of {self._what} is not base64.", "Look at what wrote it."
            ) from None

    def _patch(self, state: EnvironmentState, changes: Changes, *, dry_run: bool = False) -> EnvironmentState:
        data = {
            name: base64.b64encode(value.encode()).decode() if self._secret and value is not None else value
            for name, value in changes.items()
        }
        body = {"metadata": {"resourceVersion": state.version}, "data": data}
        try:
            return self._state(self._api.patch(self._path, self._what, body, Configuration, dry_run=dry_run))
        except Conflict:
            raise self._changed() from None

    def _changed(self) -> EnvironmentChanged:
        return EnvironmentChanged(
            f"{self._what} was changed since it was read; it was left as it is.",
            "Look at what changed, and start again.",
        )

    # -- the workloads ----------------------------------------------------------------------------------------------

    def _workload(self, workload: str) -> Workload:
        return self._api.get(self._workloads[workload], workload, Workload)

    def _check(self, workload: str, found: Workload, changes: Iterable[str]) -> None:
        problem = found.does_not_roll_out
        own = found.entries_not_from("secret" if self._secret else "configmap", self._settings.name or "")
        overridden = sorted(set(changes) & own)
        if not problem and overridden:
            problem = (
                f"has an entry of its own for {overridden[0]}, or needs it to be there (no `optional: true`), so it "
                "would not follow the change or not start after a removal"
            )
        if problem:
            raise EnvironmentFailed(
                f"{workload} {problem}.",
                f"Let it read {self._what} by envFrom, or by a reference with optional: true; nothing was written.",
            )

    def _restart(self, workload: str, state: EnvironmentState, *, dry_run: bool = False) -> None:
        marks = {
            RESTARTED_AT: datetime.now(UTC).isoformat(timespec="seconds"),
            ENVIRONMENT_VERSION: state.version,
        }
        body = {"spec": {"template": {"metadata": {"annotations": marks}}}}
        self._api.patch(self._workloads[workload], workload, body, Workload, dry_run=dry_run)


def _own_server(environ: Mapping[str, str]) -> str:
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigurationError(
            "switch.kubernetes.server is not set, and this process does not run in a cluster.",
            "Set switch.kubernetes.server, token_file, ca_file and namespace.",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _own_namespace(account: Path) -> str:
    try:
        return (account / "namespace").read_text("utf-8").strip()
    except OSError:
        raise ConfigurationError(
            "switch.kubernetes.namespace is not set, and there is no service account to take it from.",
            "Set switch.kubernetes.namespace.",
        ) from None
