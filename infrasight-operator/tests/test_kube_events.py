"""The Kubernetes Events for changes of a status."""

from typing import Any

from infrasight_operator.kube.events import KubeEvent, event_manifest, node_events, policy_events
from infrasight_operator.kube.resources import Kind


def conflict(status: str, message: str = "") -> dict[str, Any]:
    """A policy status with this Conflict condition."""
    return {"conditions": [{"type": "Conflict", "status": status, "message": message}]}


def test_only_new_node_failures_cause_events() -> None:
    """A rejection and each failure cause one Event when they appear, and none afterwards."""
    failures = [
        {"name": "open", "reason": "no such tracepoint"},
        {"name": "probe-x", "reason": "no such version", "package": True},
    ]
    status = {"rejected": "not JSON", "failures": failures}
    assert [event.reason for event in node_events({}, status)] == [
        "ConfigurationRejected",
        "ProbeFailed",
        "PackageFailed",
    ]
    assert node_events(status, status) == []
    other_reason = {"failures": [{"name": "open", "reason": "another reason"}]}
    assert node_events(status, other_reason) == [KubeEvent("ProbeFailed", "open: another reason")]


def test_conflict_causes_events_when_it_begins_changes_and_ends() -> None:
    """A conflict is a warning when it begins or changes, and its end is a normal Event."""
    begun = policy_events({}, conflict("True", "a and b"))
    assert begun == [KubeEvent("PolicyConflict", "a and b")]
    assert policy_events(conflict("True", "a and b"), conflict("True", "a and b")) == []
    changed = policy_events(conflict("True", "a and b"), conflict("True", "a and c"))
    assert changed == [KubeEvent("PolicyConflict", "a and c")]
    (ended,) = policy_events(conflict("True", "a and b"), conflict("False"))
    assert (ended.reason, ended.is_warning) == ("ConflictResolved", False)
    assert policy_events(conflict("False"), conflict("False")) == []


def test_event_manifest_refers_to_its_object_and_is_bounded() -> None:
    """The Event names the object that it is about; name prefix and message have limits."""
    metadata = {"name": "n" * 253, "namespace": "infrasight", "uid": "1"}
    event = KubeEvent("ProbeFailed", "x" * 5000)
    manifest = event_manifest(
        event, Kind.NODE_PROBES, {"metadata": metadata}, "2026-01-01T00:00:00Z"
    )
    involved = manifest["involvedObject"]
    assert (involved["kind"], involved["name"], involved["uid"]) == ("NodeProbes", "n" * 253, "1")
    assert manifest["type"] == "Warning"
    assert len(manifest["message"]) == 1000
    assert len(manifest["metadata"]["generateName"]) < 253
