"""The part of a Kubernetes node that the operator uses."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen


@frozen
class Node:
    """A node.

    Attributes:
        name: The node's name.
        labels: The node's labels.
        ready: Whether the kubelet reports the node as ready.
    """

    name: str
    labels: Mapping[str, str]
    ready: bool

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> "Node":
        """Parses an object of the Kubernetes API."""
        conditions = (body.get("status") or {}).get("conditions") or ()
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        return cls(body["metadata"]["name"], body["metadata"].get("labels") or {}, ready)
