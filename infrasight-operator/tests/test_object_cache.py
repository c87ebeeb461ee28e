"""The object cache: what it stores, and which changes it reports."""

from typing import Any

from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import Kind


class RecordingCache:
    """A cache that records what it reports."""

    def __init__(self) -> None:
        self.changes: list[Kind] = []
        self.relists: list[Kind] = []
        self.cache = ObjectCache(self.changes.append, self.relists.append)

    def names(self, kind: Kind) -> list[str]:
        """The names of the cached objects."""
        return sorted(self.cache.all(kind))


def body(name: str, version: int, **fields: Any) -> dict[str, Any]:
    """An object; `uid` and `metadata` replace the default metadata."""
    metadata = {
        "name": name,
        "uid": fields.pop("uid", f"uid-{name}"),
        "resourceVersion": str(version),
        "managedFields": [],
        **fields.pop("metadata", {}),
    }
    return {"metadata": metadata, **fields}


def node_status(heartbeat: int) -> dict[str, Any]:
    """The status of a ready node."""
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": str(heartbeat)}
    return {"conditions": [ready], "images": [f"image-{heartbeat}"]}


def test_node_heartbeats_report_no_change() -> None:
    """A node's heartbeats report no change; its labels and its readiness do."""
    recording = RecordingCache()
    cache = recording.cache
    cache.handle_watch_event(Kind.NODE, "ADDED", body("a", 1, status=node_status(1)))
    for version in range(2, 50):
        heartbeat = body("a", version, status=node_status(version))
        cache.handle_watch_event(Kind.NODE, "MODIFIED", heartbeat)
    assert len(recording.changes) == 1
    labels = {"labels": {"zone": "b"}}
    relabelled = body("a", 60, status=node_status(60), metadata=labels)
    cache.handle_watch_event(Kind.NODE, "MODIFIED", relabelled)
    assert len(recording.changes) == 2
    not_ready = body("a", 61, status={"conditions": []}, metadata=labels)
    cache.handle_watch_event(Kind.NODE, "MODIFIED", not_ready)
    assert len(recording.changes) == 3


def test_statuses_and_own_writes_report_no_change() -> None:
    """The operator's own writes do not trigger another pass; a changed spec does."""
    recording = RecordingCache()
    cache = recording.cache
    cache.store(Kind.POLICY, body("p", 1, spec={"priority": 1}), own_write=True)
    with_status = body("p", 2, spec={"priority": 1}, status={"nodes": {}})
    cache.handle_watch_event(Kind.POLICY, "MODIFIED", with_status)
    assert recording.changes == []
    cache.handle_watch_event(Kind.POLICY, "MODIFIED", body("p", 3, spec={"priority": 2}))
    assert recording.changes == [Kind.POLICY]


def test_older_version_does_not_replace_newer_one() -> None:
    """A late watch event is ignored, unless the object was deleted and created again."""
    recording = RecordingCache()
    cache = recording.cache
    cache.store(Kind.POLICY, body("p", 9, spec={"priority": 2}))
    cache.handle_watch_event(Kind.POLICY, "MODIFIED", body("p", 8, spec={"priority": 1}))
    assert cache.all(Kind.POLICY)["p"]["spec"] == {"priority": 2}
    recreated = body("p", 4, spec={"priority": 3}, uid="another")
    cache.handle_watch_event(Kind.POLICY, "ADDED", recreated)
    assert cache.all(Kind.POLICY)["p"]["spec"] == {"priority": 3}


def test_list_removes_objects_deleted_unwatched() -> None:
    """A list removes what it lacks, keeps newer objects, and does not restore deleted ones."""
    recording = RecordingCache()
    cache = recording.cache
    for name, version in (("present", 1), ("missed", 2), ("deleted", 3)):
        cache.store(Kind.POLICY, body(name, version))
    cache.begin_list(Kind.POLICY)
    cache.handle_watch_event(Kind.POLICY, "DELETED", body("deleted", 12))
    cache.handle_watch_event(Kind.POLICY, "ADDED", body("newer", 11))
    cache.finish_list(Kind.POLICY, [body("present", 1), body("deleted", 3)], 10)
    assert recording.names(Kind.POLICY) == ["newer", "present"]


def test_repeated_list_of_the_watch_is_reported() -> None:
    """An object that the watch lists a second time shows that the watch was interrupted."""
    recording = RecordingCache()
    recording.cache.handle_watch_event(Kind.NODE, None, body("a", 1))
    assert recording.relists == []
    recording.cache.handle_watch_event(Kind.NODE, None, body("a", 1))
    assert recording.relists == [Kind.NODE]


def test_object_being_deleted_is_left_out() -> None:
    """An object that waits for a third-party finalizer counts as deleted."""
    recording = RecordingCache()
    deleting = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    recording.cache.store(Kind.INFRASIGHT, body("infrasight", 1, metadata=deleting))
    assert recording.names(Kind.INFRASIGHT) == []
