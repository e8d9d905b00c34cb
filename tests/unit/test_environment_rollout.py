"""When a rollout counts as complete: as for ``kubectl rollout status``, one condition at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from integrity.switch.kubernetes_objects import Workload

DEPLOYMENT: Final = {
    "observedGeneration": 7,
    "replicas": 3,
    "updatedReplicas": 3,
    "readyReplicas": 3,
    "availableReplicas": 3,
}
STATEFULSET: Final = {
    "observedGeneration": 7,
    "replicas": 3,
    "updatedReplicas": 3,
    "readyReplicas": 3,
    "currentRevision": "web-b",
    "updateRevision": "web-b",
}
EXCEEDED: Final = [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]


def deployment(status: Mapping[str, object], *, wanted: int = 3) -> Workload:
    return Workload.model_validate(
        {"metadata": {"generation": 7}, "spec": {"replicas": wanted}, "status": {**DEPLOYMENT, **status}}
    )


def statefulset(status: Mapping[str, object]) -> Workload:
    spec = {"replicas": 3, "updateStrategy": {"type": "RollingUpdate"}}
    return Workload.model_validate(
        {"metadata": {"generation": 7}, "spec": spec, "status": {**STATEFULSET, **status}}
    )


def test_a_rollout_whose_every_condition_holds_is_complete() -> None:
    assert deployment({}).waits_for == ""
    assert statefulset({}).waits_for == ""


def test_a_deployment_without_pods_is_complete() -> None:
    nothing = dict.fromkeys(("updatedReplicas", "readyReplicas", "availableReplicas"), 0)
    assert deployment({"replicas": 0, **nothing}, wanted=0).waits_for == ""
    assert deployment(nothing, wanted=0).waits_for != ""


@pytest.mark.parametrize(
    "status",
    [
        {"observedGeneration": 6},
        {"updatedReplicas": 2, "replicas": 2},
        {"replicas": 4},
        {"availableReplicas": 2},
    ],
    ids=["not seen", "not replaced", "old ones left", "not available"],
)
def test_each_condition_of_a_deployment_is_waited_for(status: dict[str, object]) -> None:
    assert deployment(status).waits_for != ""


@pytest.mark.parametrize(
    "status",
    [{"observedGeneration": 6}, {"updatedReplicas": 2}, {"readyReplicas": 2}, {"currentRevision": "web-a"}],
    ids=["not seen", "not replaced", "not ready", "revision before"],
)
def test_each_condition_of_a_statefulset_is_waited_for(status: dict[str, object]) -> None:
    assert statefulset(status).waits_for != ""


def test_a_workload_that_no_controller_has_looked_at_is_not_complete() -> None:
    assert Workload.model_validate({"metadata": {"generation": 1}, "spec": {"replicas": 0}}).waits_for != ""


def test_a_deadline_that_a_rollout_before_exceeded_does_not_count() -> None:
    assert deployment({"conditions": EXCEEDED}).progress_deadline_exceeded
    assert not deployment({"conditions": EXCEEDED, "observedGeneration": 6}).progress_deadline_exceeded
    assert not deployment({"conditions": [{"type": "Available", "reason": "x"}]}).progress_deadline_exceeded
