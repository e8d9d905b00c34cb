"""An environment in a Kubernetes ConfigMap or Secret, over the API server's own REST interface.

A change names the resource version that it was read at, so of two writers one wins.  Containers read their environment
when they start: after the change the pod template of each named workload is marked, as ``kubectl rollout restart``
does, and its rollout is followed as ``kubectl rollout status`` does.  The mark carries the resource version, so a write
that is repeated after a crash restarts what was not restarted yet and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from integrity.errors import ConfigurationError
from integrity.switch.environment import (
    Changes,
    EnvironmentChanged,
    EnvironmentFailed,
    EnvironmentState,
    holds,
)
from integrity.switch.kubernetes_api import ApiServer, ApiUnavailable, Conflict
from integrity.switch.kubernetes_objects import Configuration, Workload
from integrity.switch.settings import VARIABLE_PATTERN, KubernetesSettings

ACCOUNT_FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
ENVIRONMENT_VERSION: Final = "greenfly-environment-version"


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
