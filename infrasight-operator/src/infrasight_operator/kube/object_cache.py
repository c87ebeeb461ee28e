"""The cluster's objects as they were seen last, and whether what was seen is new."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from infrasight_operator.kube.resources import WATCHED, Kind

Body = Mapping[str, Any]


class ObjectCache:
    """A copy of what the API server has, fed by lists, by a watch, and by the answers to our own writes.

    The watch does not tell of what was deleted while it was interrupted; it lists again then, which `relisted` hears of.

    Args:
        changed: Called when something that matters has changed.
        relisted: Called when the watch of a kind has listed it again.
    """

    def __init__(self, changed: Callable[[Kind], None], relisted: Callable[[Kind], None]) -> None:
        self._changed, self._relisted = changed, relisted
        self._objects: dict[Kind, dict[str, Body]] = {kind: {} for kind in WATCHED}
        self._gone: dict[Kind, set[str]] = {}  # uids of what was deleted while a list is under way

    def all(self, kind: Kind) -> dict[str, Body]:
        """The objects of a kind that are not being deleted, by name."""
        return {
            name: body
            for name, body in self._objects[kind].items()
            if not body["metadata"].get("deletionTimestamp")
        }

    def get(self, kind: Kind, name: str) -> Body | None:
        """One object, if it is there."""
        return self._objects[kind].get(name)

    def event(self, kind: Kind, type_: str | None, body: Body) -> None:
        """Takes what the watch tells; without a type it comes from a list."""
        if type_ == "DELETED":
            self._gone.get(kind, set()).add(body["metadata"].get("uid", ""))
            if self._objects[kind].pop(body["metadata"]["name"], None) is not None:
                self._changed(kind)
            return
        if type_ is None and body["metadata"]["name"] in self._objects[kind]:
            self._relisted(kind)
        self.put(kind, body)

    def put(self, kind: Kind, body: Body, ours: bool = False) -> None:
        """Takes an object, unless a newer state of it is known; what we wrote ourselves is no news."""
        name, objects = body["metadata"]["name"], self._objects[kind]
        before, kept = objects.get(name), _kept(kind, body)
        if (
            before is not None
            and before["metadata"].get("uid") == kept["metadata"].get("uid")
            and _age(before) > _age(kept)
        ):
            return
        objects[name] = kept
        if not ours and (before is None or _news(kind, before) != _news(kind, kept)):
            self._changed(kind)

    def list_begins(self, kind: Kind) -> None:
        """Says that a list is asked for; what is deleted until it comes is not taken from it."""
        self._gone[kind] = set()

    def list_came(self, kind: Kind, bodies: Iterable[Body], version: int) -> None:
        """Takes a whole list: what it lacks has gone, unless it was made after the list."""
        gone, there = self._gone.pop(kind, set()), set()
        for body in bodies:
            there.add(body["metadata"]["name"])
            if body["metadata"].get("uid") not in gone:
                self.put(kind, body)
        objects = self._objects[kind]
        for name in [
            name for name, body in objects.items() if name not in there and _age(body) <= version
        ]:
            del objects[name]
            self._changed(kind)


def _kept(kind: Kind, body: Body) -> Body:
    """Of nodes and DaemonSets only what is looked at, since they change all the time; of all, no managedFields."""
    about = body["metadata"]
    names = (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
    )
    metadata = {
        key: about[key]
        for key in (*names, "labels", "annotations", "ownerReferences")
        if key in about
    }
    if kind is Kind.NODE:
        metadata.pop("annotations", None)
        conditions = (body.get("status") or {}).get("conditions") or ()
        ready = [
            {"type": "Ready", "status": c.get("status")}
            for c in conditions
            if c.get("type") == "Ready"
        ]
        return {"metadata": metadata, "status": {"conditions": ready}}
    if kind is Kind.DAEMON_SET:
        return {"metadata": metadata}
    return {
        "metadata": metadata,
        "spec": body.get("spec") or {},
        "status": body.get("status") or {},
    }


def _age(body: Body) -> int:
    version = body["metadata"].get("resourceVersion", "0")
    return int(version) if str(version).isdecimal() else 0


def _news(kind: Kind, body: Body) -> Body:
    """What of an object is news; the statuses that we write are none."""
    about = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
    return {
        "metadata": about,
        "rest": body.get("status") if kind is Kind.NODE else body.get("spec"),
    }
