"""A copy of the cluster's objects, which reports the changes that matter to the operator."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from infrasight_operator.kube.resources import WATCHED, Kind

Body = Mapping[str, Any]

_METADATA_FIELDS = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
)


class ObjectCache:
    """The objects of the watched kinds, fed by lists, watch events and the results of own writes.

    After an interruption the watch lists again, and does not report objects that were deleted in
    the meantime. The cache detects such a list and calls `on_relist`.

    Args:
        on_change: Called when an object has changed in a way that matters.
        on_relist: Called when the watch of a kind has listed its objects again.
    """

    def __init__(
        self, on_change: Callable[[Kind], None], on_relist: Callable[[Kind], None]
    ) -> None:
        self._on_change = on_change
        self._on_relist = on_relist
        self._objects: dict[Kind, dict[str, Body]] = {kind: {} for kind in WATCHED}
        self._deleted_during_list: dict[Kind, set[str]] = {}

    def all(self, kind: Kind) -> dict[str, Body]:
        """The objects of a kind by name, without those that are being deleted."""
        return {
            name: body
            for name, body in self._objects[kind].items()
            if not body["metadata"].get("deletionTimestamp")
        }

    def get(self, kind: Kind, name: str) -> Body | None:
        """One object; None if there is none."""
        return self._objects[kind].get(name)

    def handle_watch_event(self, kind: Kind, event_type: str | None, body: Body) -> None:
        """Handles an event of the watch. An object from a list has no event type."""
        metadata = body["metadata"]
        if event_type == "DELETED":
            self._deleted_during_list.get(kind, set()).add(metadata.get("uid", ""))
            if self._objects[kind].pop(metadata["name"], None) is not None:
                self._on_change(kind)
            return
        if event_type is None and metadata["name"] in self._objects[kind]:
            self._on_relist(kind)
        self.store(kind, body)

    def store(self, kind: Kind, body: Body, own_write: bool = False) -> None:
        """Stores an object, unless a newer version is stored. An own write reports no change."""
        name = body["metadata"]["name"]
        objects = self._objects[kind]
        previous = objects.get(name)
        current = _trim(kind, body)
        if previous is not None:
            is_same_object = previous["metadata"].get("uid") == current["metadata"].get("uid")
            if is_same_object and _version(previous) > _version(current):
                return
        objects[name] = current
        if own_write:
            return
        if previous is None or _relevant_part(kind, previous) != _relevant_part(kind, current):
            self._on_change(kind)

    def begin_list(self, kind: Kind) -> None:
        """Call before requesting a list: objects deleted from now on are ignored in the list."""
        self._deleted_during_list[kind] = set()

    def finish_list(self, kind: Kind, bodies: Iterable[Body], version: int) -> None:
        """Stores a complete list and removes the objects that it lacks.

        Objects that are newer than the list stay.

        Args:
            kind: The kind.
            bodies: The listed objects.
            version: The resource version of the list.
        """
        deleted = self._deleted_during_list.pop(kind, set())
        listed = set()
        for body in bodies:
            listed.add(body["metadata"]["name"])
            if body["metadata"].get("uid") not in deleted:
                self.store(kind, body)
        objects = self._objects[kind]
        for name in objects.keys() - listed:
            if _version(objects[name]) <= version:
                del objects[name]
                self._on_change(kind)


def _trim(kind: Kind, body: Body) -> Body:
    """Removes what the operator does not read: managedFields, most of nodes and DaemonSets."""
    metadata = {
        field: body["metadata"][field] for field in _METADATA_FIELDS if field in body["metadata"]
    }
    if kind is Kind.DAEMON_SET:
        return {"metadata": metadata}
    if kind is Kind.NODE:
        metadata.pop("annotations", None)
        ready = [
            {"type": "Ready", "status": condition.get("status")}
            for condition in (body.get("status") or {}).get("conditions") or ()
            if condition.get("type") == "Ready"
        ]
        return {"metadata": metadata, "status": {"conditions": ready}}
    return {
        "metadata": metadata,
        "spec": body.get("spec") or {},
        "status": body.get("status") or {},
    }


def _version(body: Body) -> int:
    version = str(body["metadata"].get("resourceVersion", "0"))
    return int(version) if version.isdecimal() else 0


def _relevant_part(kind: Kind, body: Body) -> Body:
    """The part whose changes matter. The statuses that the operator writes do not."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
    content = body.get("status") if kind is Kind.NODE else body.get("spec")
    return {"metadata": metadata, "content": content}
