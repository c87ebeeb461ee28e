"""Kubernetes Events, which `kubectl describe` shows, for changes of a status."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from infrasight_operator.kube.resources import API_VERSION, Kind

COMPONENT = "infrasight-operator"
_MAX_MESSAGE_CHARACTERS = 1000
_MAX_NAME_PREFIX = 200
# A condition of a policy, the status that is reported, and the Event's reason.
_POLICY_WARNINGS = (
    ("Accepted", "False", "PolicyRejected"),
    ("Conflict", "True", "PolicyConflict"),
    ("Overridden", "True", "PolicyOverridden"),
    ("RecordsNothing", "True", "PolicyRecordsNothing"),
)


@frozen
class KubeEvent:
    """The content of an Event.

    Attributes:
        reason: The cause, in one CamelCase word.
        message: The cause, in a sentence.
        is_warning: Whether the type is Warning instead of Normal.
    """

    reason: str
    message: str
    is_warning: bool = True


def node_events(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[KubeEvent]:
    """The Events for a change of a NodeProbes status: new rejections and failures."""
    events = []
    rejected = after.get("rejected")
    if rejected and rejected != before.get("rejected"):
        message = f"the agent rejected the configuration: {rejected}"
        events.append(KubeEvent("ConfigurationRejected", message))
    known = {(failure["name"], failure["reason"]) for failure in before.get("failures") or ()}
    for failure in after.get("failures") or ():
        if (failure["name"], failure["reason"]) not in known:
            reason = "PackageFailed" if failure.get("package") else "ProbeFailed"
            events.append(KubeEvent(reason, f"{failure['name']}: {failure['reason']}"))
    return events


def policy_events(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[KubeEvent]:
    """The Events for a change of a ProbePolicy status.

    They report what appears in the status that limits the policy's effect, and conflicts that end.
    """
    events = []
    for name, status, reason in _POLICY_WARNINGS:
        old = _condition(before, name)
        new = _condition(after, name)
        if new.get("status") == status and old.get("message") != new.get("message"):
            events.append(KubeEvent(reason, new["message"]))
    was_in_conflict = _condition(before, "Conflict").get("status") == "True"
    if was_in_conflict and _condition(after, "Conflict").get("status") == "False":
        message = "no other policy disagrees any more"
        events.append(KubeEvent("ConflictResolved", message, is_warning=False))
    return events


def event_manifest(
    event: KubeEvent, kind: Kind, body: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The Event object.

    Args:
        event: The content.
        kind: The kind of the object that the Event is about.
        body: That object.
        now: The time, in the API's format.
    """
    metadata = body["metadata"]
    prefix = metadata["name"][:_MAX_NAME_PREFIX]
    return {
        "metadata": {"generateName": f"{prefix}-", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": kind.resource.__name__,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
        },
        "reason": event.reason,
        "message": event.message[:_MAX_MESSAGE_CHARACTERS],
        "type": "Warning" if event.is_warning else "Normal",
        "source": {"component": COMPONENT},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _condition(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    condition: Mapping[str, Any]
    for condition in status.get("conditions") or ():
        if condition.get("type") == name:
            return condition
    return {}
