"""A ConfigMap or Secret and the workloads that read it, on a stand-in API server."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Final, Literal

import pytest
from pydantic import ValidationError

from integrity.errors import ConfigurationError
from integrity.switch.environment import (
    EnvironmentChanged,
    EnvironmentFailed,
    environment_switch,
)
from integrity.switch.kubernetes import ENVIRONMENT_VERSION, RESTARTED_AT, KubernetesSwitch
from integrity.switch.kubernetes_api import ApiUnavailable
from integrity.switch.settings import KubernetesSettings, SwitchSettings
from tests.kubernetes_api import NAMESPACE, TOKEN, KubernetesApi

GREEN: Final = "rediss://app:s3cret@green.example:6380/0"
TO_GREEN: Final = {"DRAGONFLY_URL": GREEN, "GREENFLY_PHASE": "green"}
TO_BLUE: Final = {"DRAGONFLY_URL": None, "GREENFLY_PHASE": None}
BEFORE: Final = {"REDIS_URL": "redis://blue:6379", "DEBUG": "no"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    folder = tmp_path / "api"
    folder.mkdir()
    with KubernetesApi(folder) as served:
        yield served


def settings_for(
    api: KubernetesApi,
    *workloads: str,
    resource: Literal["configmap", "secret"] = "configmap",
    timeout: float = 5.0,
) -> KubernetesSettings:
    return KubernetesSettings(
        resource=resource,
        name="app-env",
        namespace=NAMESPACE,
        workloads=workloads,
        server=api.url,
        token_file=api.folder / "token",
        ca_file=api.folder / "ca.pem",
        timeout=timeout,
        poll_seconds=0.01,
    )


def switch_for(api: KubernetesApi, *workloads: str, timeout: float = 5.0) -> KubernetesSwitch:
    return KubernetesSwitch(settings_for(api, *workloads, timeout=timeout))


def patches(api: KubernetesApi) -> list[str]:
    return [request for request in api.requests if request.startswith("PATCH")]


# -- reading and writing ---------------------------------------------------------------------------------------------


def test_only_the_named_entries_of_a_configmap_change_and_come_back(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    switch = switch_for(api)
    before = switch.read()
    green = switch.write(before, TO_GREEN)
    assert api.data(path) == BEFORE | TO_GREEN
    assert green.values == BEFORE | TO_GREEN
    assert green.version != before.version
    assert switch.read() == green
    assert switch.confirm(1.0) == ""
    switch.write(green, TO_BLUE)
    assert api.data(path) == BEFORE


def test_an_object_without_any_entry_can_be_written(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", None)
    switch = switch_for(api)
    switch.write(switch.read(), TO_GREEN)
    assert api.data(path) == TO_GREEN


def test_the_entries_of_a_secret_are_base64_there_and_plain_here(api: KubernetesApi) -> None:
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in BEFORE.items()}
    path = api.add_configuration(
        "secret", "app-env", encoded | {"binary": base64.b64encode(b"\xff").decode()}
    )
    switch = KubernetesSwitch(settings_for(api, resource="secret"))
    state = switch.read()
    assert {name: state.values[name] for name in BEFORE} == BEFORE
    switch.write(state, TO_GREEN)
    assert base64.b64decode(api.data(path)["DRAGONFLY_URL"]).decode() == GREEN
    assert api.data(path)["binary"] == base64.b64encode(b"\xff").decode()
    switch.write(switch.read(), TO_BLUE)
    assert "DRAGONFLY_URL" not in api.data(path)


def test_what_somebody_else_changed_since_is_not_written(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    switch = switch_for(api, "deployment/web")
    workload = api.add_workload("deployment", "web")
    state = switch.read()
    api.touch(path, {"DEBUG": "yes"})
    with pytest.raises(EnvironmentChanged):
        switch.write(state, TO_GREEN)
    assert api.data(path) == BEFORE | {"DEBUG": "yes"}
    assert api.annotations(workload) == {}


def test_a_change_between_the_last_look_and_the_patch_is_a_conflict_and_stays(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    switch = switch_for(api)
    state = switch.read()
    answer = KubernetesApi.answer

    def changed_just_before(self: KubernetesApi, method: str, *rest: object) -> object:
        if method == "PATCH":
            self.touch(path, {"DEBUG": "yes"})
        return answer(self, method, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(KubernetesApi, "answer", changed_just_before)
    with pytest.raises(EnvironmentChanged):
        switch.write(state, TO_GREEN)
    assert api.data(path) == BEFORE | {"DEBUG": "yes"}


def test_what_is_there_already_is_not_written_again_and_needs_no_version(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    api.add_workload("deployment", "web")
    switch = switch_for(api, "deployment/web")
    before = switch.read()
    green = switch.write(before, TO_GREEN)
    made = patches(api)
    assert len(made) == 2
    assert switch_for(api, "deployment/web").write(before, TO_GREEN) == green
    assert patches(api) == made


def test_a_write_whose_answer_was_lost_is_finished_by_repeating_it(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    workload = api.add_workload("deployment", "web")
    switch = switch_for(api, "deployment/web")
    before = switch.read()
    api.lost.append("PATCH")
    with pytest.raises(EnvironmentFailed):
        switch.write(before, TO_GREEN)
    assert api.data(path) == BEFORE | TO_GREEN
    assert api.annotations(workload) == {}
    state = switch_for(api, "deployment/web").write(before, TO_GREEN)
    assert api.annotations(workload)[ENVIRONMENT_VERSION] == state.version
    assert api.generation(workload) == 2


# -- workloads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deployment", "statefulset"])
def test_each_workload_is_restarted_once_and_its_rollout_is_waited_for(api: KubernetesApi, kind: str) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    paths = [api.add_workload(kind, name) for name in ("web", "worker")]
    switch = switch_for(api, f"{kind}/web", f"{kind}/worker")
    state = switch.write(switch.read(), TO_GREEN)
    for path in paths:
        assert set(api.annotations(path)) == {RESTARTED_AT, ENVIRONMENT_VERSION}
        assert api.annotations(path)[ENVIRONMENT_VERSION] == state.version
    looks = len(api.requests)
    assert switch.confirm(10.0) == ""
    for path in paths:
        assert api.requests[looks:].count(f"GET {path}") == 5
        assert api.generation(path) == 2


@pytest.mark.parametrize("kind", ["deployment", "statefulset"])
@pytest.mark.parametrize("looks", [1, 2, 3, 4])
def test_a_rollout_is_not_taken_for_complete_at_any_step_before_its_end(
    api: KubernetesApi, kind: str, looks: int
) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    path = api.add_workload(kind, "web")
    switch = switch_for(api, f"{kind}/web")
    switch.write(switch.read(), TO_GREEN)
    for _ in range(looks - 1):
        api.answer("GET", path, f"Bearer {TOKEN}", None)
    assert switch.confirm(0.0) != ""


def test_a_rollout_that_stalls_is_told_without_waiting_for_the_time_to_end(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    api.stalled.add(api.add_workload("deployment", "web"))
    switch = switch_for(api, "deployment/web")
    switch.write(switch.read(), TO_GREEN)
    began = monotonic()
    assert "deployment/web" in switch.confirm(60.0)
    assert monotonic() - began < 30.0


def test_a_rollout_that_is_not_complete_in_time_is_told(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    api.add_workload("statefulset", "db")
    switch = switch_for(api, "statefulset/db")
    switch.write(switch.read(), TO_GREEN)
    api.delay = 0.05
    assert "statefulset/db" in switch.confirm(0.06)


def test_an_api_server_that_is_away_for_a_moment_does_not_end_the_waiting(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    api.add_workload("deployment", "web")
    switch = switch_for(api, "deployment/web")
    switch.write(switch.read(), TO_GREEN)
    api.answers += [503, 429, 500]
    api.lost.append("GET")
    assert switch.confirm(20.0) == ""


def test_values_that_are_changed_back_meanwhile_are_told(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    switch = switch_for(api)
    assert switch.confirm(1.0) != ""
    switch.write(switch.read(), TO_GREEN)
    api.touch(path, {"DRAGONFLY_URL": "redis://elsewhere"})
    assert switch.confirm(1.0) != ""


def reference(*, optional: bool, name: str = "app-env") -> dict[str, object]:
    key = {"name": name, "key": "DRAGONFLY_URL", "optional": optional}
    return {"name": "DRAGONFLY_URL", "valueFrom": {"configMapKeyRef": key}}


@pytest.mark.parametrize(
    "make",
    [
        lambda api: api.add_workload("deployment", "web", paused=True),
        lambda api: api.add_workload(
            "deployment", "web", env=[{"name": "DRAGONFLY_URL", "value": "redis://x"}]
        ),
        lambda api: api.add_workload("deployment", "web", env=[reference(optional=False)]),
        lambda api: api.add_workload("deployment", "web", env=[reference(optional=True, name="other")]),
        lambda api: api.add_workload("statefulset", "web", updateStrategy={"type": "OnDelete"}),
        lambda api: api.add_workload(
            "statefulset", "web", updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
        ),
        lambda api: "/deployments/",
    ],
    ids=["paused", "own value", "needed", "other object", "on delete", "partition", "missing"],
)
def test_a_workload_that_would_not_follow_is_refused_before_anything_is_written(
    api: KubernetesApi, make: Callable[[KubernetesApi], str]
) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    kind = "statefulset" if "/statefulsets/" in make(api) else "deployment"
    switch = switch_for(api, f"{kind}/web")
    with pytest.raises(EnvironmentFailed):
        switch.write(switch.read(), TO_GREEN)
    assert api.data(path) == BEFORE
    assert patches(api) == []


def test_a_workload_with_an_optional_reference_follows(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    workload = api.add_workload("deployment", "web", env=[reference(optional=True)])  # type: ignore[list-item]
    switch = switch_for(api, "deployment/web")
    switch.write(switch.read(), TO_GREEN)
    assert api.generation(workload) == 2


# -- checking --------------------------------------------------------------------------------------------------------


def test_checking_changes_nothing_and_finds_what_a_write_would_find(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    workload = api.add_workload("deployment", "web")
    switch = switch_for(api, "deployment/web")
    before = switch.read()
    for changes in (TO_GREEN, TO_BLUE):
        switch.check(changes)
    assert switch.read() == before
    assert (api.generation(workload), api.annotations(workload)) == (1, {})
    assert len(patches(api)) == 4
    for forbidden in (f"PATCH {path}", f"PATCH {workload}", f"GET {workload}"):
        api.forbidden = {forbidden}
        with pytest.raises(EnvironmentFailed):
            switch.check(TO_GREEN)
    api.forbidden = set()
    api.objects[path]["immutable"] = True
    with pytest.raises(EnvironmentFailed):
        switch.check(TO_GREEN)


# -- refusals --------------------------------------------------------------------------------------------------------


def refused(api: KubernetesApi, act: Callable[[], object]) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as caught:
        act()
    error = caught.value
    assert error.problem
    assert error.remedy
    for secret in (TOKEN, "s3cret", "hunter2"):
        assert secret not in str(error)
        assert secret not in repr(error)
    return error


def test_each_refusal_is_named_and_repeats_nothing_of_the_answer(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    switch = switch_for(api)
    state = switch.read()
    problems = {
        refused(api, switch_for(api).read).problem for api.answers[:] in ([401], [403], [404], [422], [302])
    }
    assert len(problems) == 5
    for status in (429, 500, 503):
        api.answers[:] = [status]
        assert isinstance(refused(api, switch.read), ApiUnavailable)
    (api.folder / "token").write_text("another-token")
    refused(api, switch.read)
    (api.folder / "token").write_text("two\nlines of hunter2")
    refused(api, switch.read)
    (api.folder / "token").write_text(TOKEN)
    api.forbidden.add(f"PATCH {path}")
    refused(api, lambda: switch.write(state, TO_GREEN))
    assert api.data(path) == BEFORE


def test_an_immutable_object_is_refused(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE, immutable=True)
    switch = switch_for(api)
    refused(api, lambda: switch.write(switch.read(), TO_GREEN))
    assert patches(api) == []


def test_an_answer_that_is_no_such_object_is_refused_without_quoting_it(api: KubernetesApi) -> None:
    path = api.add_configuration("configmap", "app-env", BEFORE)
    api.objects[path]["data"] = {"PASSWORD": ["hunter2"]}
    refused(api, switch_for(api).read)
    secret = api.add_configuration("secret", "app-env", {"PASSWORD": "hunter2!"})
    assert secret
    refused(api, KubernetesSwitch(settings_for(api, resource="secret")).read)


def test_a_server_that_does_not_answer_in_time_is_named(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    api.delay = 1.0
    assert isinstance(refused(api, switch_for(api, timeout=0.2).read), ApiUnavailable)


def test_a_server_that_is_not_there_is_named(api: KubernetesApi) -> None:
    settings = settings_for(api).model_copy(update={"server": "https://127.0.0.1:1"})
    assert isinstance(refused(api, KubernetesSwitch(settings).read), ApiUnavailable)


def test_a_certificate_that_is_not_trusted_is_refused_and_gets_no_token(api: KubernetesApi) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    settings = settings_for(api).model_copy(update={"ca_file": None})
    refused(api, KubernetesSwitch(settings, account=api.folder / "none").read)
    assert api.requests == []


# -- where it is -----------------------------------------------------------------------------------------------------


def test_inside_a_cluster_the_service_account_is_enough(api: KubernetesApi, tmp_path: Path) -> None:
    api.add_configuration("configmap", "app-env", BEFORE)
    account = tmp_path / "account"
    account.mkdir()
    (account / "namespace").write_text(NAMESPACE)
    (account / "token").write_text(TOKEN)
    (account / "ca.crt").write_bytes((api.folder / "ca.pem").read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    switch = KubernetesSwitch(KubernetesSettings(name="app-env"), environ=environ, account=account)
    assert switch.read().values == BEFORE
    assert switch.name == f"kubernetes configmap {NAMESPACE}/app-env"


def test_outside_a_cluster_what_is_missing_is_named(tmp_path: Path) -> None:
    for settings in (
        KubernetesSettings(),
        KubernetesSettings(name="a"),
        KubernetesSettings(name="a", namespace="b"),
    ):
        with pytest.raises(ConfigurationError):
            KubernetesSwitch(settings, environ={}, account=tmp_path)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("no certificate")
    with pytest.raises(ConfigurationError):
        KubernetesSwitch(KubernetesSettings(name="a", namespace="b", server="https://h", ca_file=ca_file))


@pytest.mark.parametrize(
    "server", ["http://127.0.0.1:8001", "https://user:pass@host", "host:6443", "https://"]
)
def test_a_server_without_tls_or_with_a_password_in_its_url_is_no_setting(server: str) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings(server=server)


def test_the_settings_choose_it(api: KubernetesApi) -> None:
    switch = environment_switch(SwitchSettings(kind="kubernetes", kubernetes=settings_for(api)))
    assert isinstance(switch, KubernetesSwitch)
