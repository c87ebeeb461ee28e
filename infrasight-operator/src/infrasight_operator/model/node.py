"""What the operator looks at of a node; everything else of it may change as often as it likes."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen


@frozen
class Node:
    """A node.

    Attributes:
        name: Its name.
        labels: Its labels.
        ready: Whether its kubelet says that it works.
    """

    name: str
    labels: Mapping[str, str]
    ready: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Node":
        """Reads an object of the API."""
        conditions = (body.get("status") or {}).get("conditions") or ()
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        return cls(body["metadata"]["name"], body["metadata"].get("labels") or {}, ready)
