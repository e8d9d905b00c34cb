"""What Kubernetes' API server answers with, as models that know nothing but what is used."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ApiObject(BaseModel):
    """A piece of an answer."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _Metadata(ApiObject):
    resource_version: str = ""
    generation: int = 0
    annotations: dict[str, str] = {}


class Configuration(ApiObject):
    """A ConfigMap or a Secret."""

    metadata: _Metadata
    data: dict[str, str] | None = None
    immutable: bool = False


class _KeyReference(ApiObject):
    name: str = ""
    key: str = ""
    optional: bool = False


class _Source(ApiObject):
    config_map_key_ref: _KeyReference | None = None
    secret_key_ref: _KeyReference | None = None


class _Variable(ApiObject):
    name: str
    value_from: _Source | None = None


class _Container(ApiObject):
    env: tuple[_Variable, ...] = ()


class _PodSpec(ApiObject):
    containers: tuple[_Container, ...] = ()
    init_containers: tuple[_Container, ...] = ()


class _Template(ApiObject):
    metadata: _Metadata = _Metadata()
    spec: _PodSpec = _PodSpec()


class _RollingUpdate(ApiObject):
    partition: int = 0


class _UpdateStrategy(ApiObject):
    type: str = "RollingUpdate"
    rolling_update: _RollingUpdate | None = None


class _WorkloadSpec(ApiObject):
    replicas: int = 1
    paused: bool = False
    update_strategy: _UpdateStrategy | None = None
    """Only a StatefulSet has one."""
    template: _Template = _Template()


class _Condition(ApiObject):
    type: str
    reason: str = ""


class _WorkloadStatus(ApiObject):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    conditions: tuple[_Condition, ...] = ()


class Workload(ApiObject):
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
