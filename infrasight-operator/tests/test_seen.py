"""The operator's copy of the cluster, and what it takes for news."""

from typing import Any

from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import Kind


class Watched:
    """A copy that remembers what it told."""

    def __init__(self) -> None:
        self.news: list[Kind] = []
        self.lists: list[Kind] = []
        self.seen = ObjectCache(self.news.append, self.lists.append)

    def names(self, kind: Kind) -> list[str]:
        """What is there."""
        return sorted(self.seen.all(kind))


def body(name: str, version: int, **more: Any) -> dict[str, Any]:
    """An object."""
    about = {
        "name": name,
        "uid": more.pop("uid", f"uid-{name}"),
        "resourceVersion": str(version),
        "managedFields": [],
    }
    return {"metadata": {**about, **more.pop("metadata", {})}, **more}


def test_heartbeats_of_nodes_are_no_news() -> None:
    """A node's status may change as it likes; its labels, and whether it is ready, are looked at."""
    watched = Watched()
    ready = {
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"}],
        "images": [],
    }
    watched.seen.event(Kind.NODE, "ADDED", body("a", 1, status=ready))
    for version in range(2, 50):
        beat = {
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": str(version)}],
            "images": ["x"],
        }
        watched.seen.event(Kind.NODE, "MODIFIED", body("a", version, status=beat))
    assert len(watched.news) == 1
    watched.seen.event(
        Kind.NODE, "MODIFIED", body("a", 60, status=ready, metadata={"labels": {"zone": "b"}})
    )
    watched.seen.event(
        Kind.NODE,
        "MODIFIED",
        body("a", 61, status={"conditions": []}, metadata={"labels": {"zone": "b"}}),
    )
    assert len(watched.news) == 3


def test_statuses_and_own_writing_are_no_news() -> None:
    """What the operator wrote itself does not wake it."""
    watched = Watched()
    watched.seen.put(Kind.POLICY, body("p", 1, spec={"priority": 1}), ours=True)
    watched.seen.event(
        Kind.POLICY, "MODIFIED", body("p", 2, spec={"priority": 1}, status={"nodes": {}})
    )
    assert watched.news == []
    watched.seen.event(Kind.POLICY, "MODIFIED", body("p", 3, spec={"priority": 2}))
    assert watched.news == [Kind.POLICY]


def test_an_older_state_does_not_replace_a_newer_one() -> None:
    """The watch may tell late what the answer to a write said before."""
    watched = Watched()
    watched.seen.put(Kind.POLICY, body("p", 9, spec={"priority": 2}))
    watched.seen.event(Kind.POLICY, "MODIFIED", body("p", 8, spec={"priority": 1}))
    assert watched.seen.all(Kind.POLICY)["p"]["spec"] == {"priority": 2}
    watched.seen.event(Kind.POLICY, "ADDED", body("p", 4, spec={"priority": 3}, uid="another"))
    assert watched.seen.all(Kind.POLICY)["p"]["spec"] == {"priority": 3}


def test_a_list_says_what_has_gone() -> None:
    """What was deleted unwatched goes; what was made after the list stays; what was deleted meanwhile does not return."""
    watched = Watched()
    for name, version in (("kept", 1), ("gone", 2), ("deleted", 3)):
        watched.seen.put(Kind.POLICY, body(name, version))
    watched.seen.list_begins(Kind.POLICY)
    watched.seen.event(Kind.POLICY, "DELETED", body("deleted", 12))
    watched.seen.event(Kind.POLICY, "ADDED", body("younger", 11))
    watched.seen.list_came(Kind.POLICY, [body("kept", 1), body("deleted", 3)], 10)
    assert watched.names(Kind.POLICY) == ["kept", "younger"]


def test_a_watch_that_lists_again_is_noticed() -> None:
    """Objects that are known and come from a list anew: the watch was interrupted."""
    watched = Watched()
    watched.seen.event(Kind.NODE, None, body("a", 1))
    assert watched.lists == []
    watched.seen.event(Kind.NODE, None, body("a", 1))
    assert watched.lists == [Kind.NODE]


def test_what_is_being_deleted_is_not_there() -> None:
    """An object with a finalizer of another that is on its way out counts as gone."""
    watched = Watched()
    watched.seen.put(
        Kind.INFRASIGHT,
        body("infrasight", 1, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    )
    assert watched.names(Kind.INFRASIGHT) == []
