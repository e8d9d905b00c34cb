"""The settings of the switch: where the applications' environment is kept, and what is written into it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from integrity.section import Section

VARIABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
"""What every shell, dotenv reader and Kubernetes takes for the name of a variable."""

_Variable = Annotated[str, Field(pattern=VARIABLE_PATTERN, max_length=200)]
_KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
_Workload = Annotated[
    str, Field(pattern=r"^(deployment|statefulset)/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=300)
]
_Seconds = Annotated[float, Field(gt=0)]


def _split_arguments(value: object) -> object:
    """A variable holds a command as text, quoted as for a shell."""
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _split_names(value: object) -> object:
    """A variable holds a list as text."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


_Arguments = Annotated[
    tuple[Annotated[str, Field(max_length=10_000)], ...], BeforeValidator(_split_arguments)
]


class DotenvSettings(Section):
    """An environment in a dotenv file."""

    path: Path | None = Field(None, description="the file; it must exist, and a symlink is followed")
    lock_timeout: _Seconds = Field(10.0, description="seconds to wait while another process changes the file")


class KubernetesSettings(Section):
    """An environment in a ConfigMap or Secret, and the workloads that read it when their containers start."""

    resource: Literal["configmap", "secret"] = Field("configmap", description="what holds the variables")
    name: _KubernetesName | None = Field(None, description="its name")
    namespace: _KubernetesName | None = Field(
        None, description="its namespace and that of the workloads; inside a cluster the pod's own by default"
    )
    workloads: Annotated[tuple[_Workload, ...], BeforeValidator(_split_names)] = Field(
        (), description="what is restarted after a change: deployment/NAME or statefulset/NAME, in this order"
    )
    server: str | None = Field(
        None,
        pattern=r"^https://[^/@?#\s]+(/[^@?#\s]*)?$",
        description="URL of the API server (https://); inside a cluster its own by default",
    )
    token_file: Path | None = Field(
        None,
        description="file that holds the bearer token; inside a cluster the service account's by default",
    )
    ca_file: Path | None = Field(
        None, description="CA certificates (PEM) of the API server; the service account's by default"
    )
    timeout: _Seconds = Field(10.0, description="seconds to wait for one answer of the API server")
    poll_seconds: _Seconds = Field(1.0, description="seconds between two looks at a rollout")


class CommandSettings(Section):
    """An environment that commands of your own read and write; each is a list of arguments, run without a shell."""

    read_command: _Arguments = Field(
        (), description="prints the variable's value; prints nothing where unset"
    )
    write_command: _Arguments = Field(
        (), description="takes the new value on its input; empty input removes it"
    )
    confirm_command: _Arguments = Field(
        (), description="ends with 0 once the applications have the new value"
    )
    timeout: _Seconds = Field(60.0, description="seconds read_command and write_command may each take")


class SwitchSettings(Section):
    """Which environment the applications follow, and the names of its variables."""

    kind: Literal["none", "dotenv", "kubernetes", "command"] = Field(
        "none", description="where the environment is kept; none: it is not switched by Greenfly"
    )
    variable: _Variable = Field("DRAGONFLY_URL", description="what is set for green and removed for blue")
    fallback_variable: _Variable = Field(
        "REDIS_URL", description="what applications read where the variable is not set; never written"
    )
    phase_variable: _Variable = Field("GREENFLY_PHASE", description="tells applications the phase")
    green_url: SecretStr | None = Field(
        None, description="what the variable is set to; the target's URL by default"
    )
    dotenv: DotenvSettings = DotenvSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    command: CommandSettings = CommandSettings()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = (self.variable, self.fallback_variable, self.phase_variable)
        if len(set(names)) < len(names):
            raise ValueError("variable, fallback_variable and phase_variable must be three different names")
        missing = {
            "none": False,
            "dotenv": self.dotenv.path is None,
            "kubernetes": self.kubernetes.name is None,
            "command": not (self.command.read_command and self.command.write_command),
        }
        if missing[self.kind]:
            needed = {
                "dotenv": "dotenv.path",
                "kubernetes": "kubernetes.name",
                "command": "command.read_command and command.write_command",
            }
            raise ValueError(f"kind {self.kind!r} needs {needed[self.kind]}")
        return self
