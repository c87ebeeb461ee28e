"""What is worth a Kubernetes Event: what is new in a status, told where people look with `kubectl describe`."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from infrasight_operator.kube.resources import API_VERSION, Kind

COMPONENT = "infrasight-operator"


@frozen
class KubeEvent:
    """One event.

    Attributes:
        reason: In one word.
        message: For people.
        warning: Whether something is wrong.
    """

    reason: str
    message: str
    warning: bool = True


def of_node(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[KubeEvent]:
    """What is new on a node."""
    found = []
    if (rejected := after.get("rejected")) and rejected != before.get("rejected"):
        found.append(
            KubeEvent("ConfigurationRejected", f"the agent rejected the configuration: {rejected}")
        )
    old = [(failure["name"], failure["reason"]) for failure in before.get("failures") or ()]
    for failure in after.get("failures") or ():
        if (failure["name"], failure["reason"]) not in old:
            reason = "PackageFailed" if failure.get("package") else "ProbeFailed"
            found.append(KubeEvent(reason, f"{failure['name']}: {failure['reason']}"))
    return found


def of_policy(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[KubeEvent]:
    """What is new of a policy."""
    conflict, was = _condition(after, "Conflict"), _condition(before, "Conflict")
    if conflict.get("status") == "True" and was.get("message") != conflict.get("message"):
        return [KubeEvent("PolicyConflict", conflict["message"])]
    if was.get("status") == "True" and conflict.get("status") == "False":
        return [KubeEvent("ConflictResolved", "no other policy disagrees any more", warning=False)]
    return []


def event(notice: KubeEvent, kind: Kind, body: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The event's object, of an object that was seen."""
    about = body["metadata"]
    return {
        "metadata": {"generateName": f"{about['name'][:200]}-", "namespace": about["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": kind.resource.__name__,
            "namespace": about["namespace"],
            "name": about["name"],
            "uid": about.get("uid", ""),
        },
        "reason": notice.reason,
        "message": notice.message[:1000],
        "type": "Warning" if notice.warning else "Normal",
        "source": {"component": COMPONENT},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})
