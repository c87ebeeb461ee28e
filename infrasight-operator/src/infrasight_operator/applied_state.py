"""Decides which objects and statuses differ from the cluster, so that only those are written."""

import json
from collections.abc import Mapping
from typing import Any

from infrasight_operator.kube.object_cache import Body
from infrasight_operator.kube.resources import Kind
from infrasight_operator.manifests.daemonset import DIGEST_ANNOTATION

Key = tuple[Kind, str]


class AppliedState:
    """What the operator has applied, and what the API server made of it.

    The API server may store an object in another form than it received it. Without this memory
    such an object would be written in every pass.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, tuple[str, int]] = {}
        self._statuses: dict[Key, tuple[Any, Any]] = {}

    def object_differs(self, kind: Kind, desired: Mapping[str, Any], cached: Body | None) -> bool:
        """Whether to apply an object."""
        if cached is None or _owner_uids(cached) != _owner_uids(desired):
            return True
        metadata = cached["metadata"]
        generation = metadata.get("generation", 0)
        if self._objects.get((kind, desired["metadata"]["name"])) == (
            _to_json(desired),
            generation,
        ):
            return False
        if kind is Kind.DAEMON_SET:
            # The API server fills in many defaults, so specs cannot be compared. The digest
            # identifies the manifest; generation 1 means that the object was not changed since.
            annotations = metadata.get("annotations") or {}
            desired_digest: str = desired["metadata"]["annotations"][DIGEST_ANNOTATION]
            is_current = annotations.get(DIGEST_ANNOTATION) == desired_digest
            return not is_current or generation != 1
        if cached.get("spec") != desired["spec"]:
            return True
        self.record_object(kind, desired, cached)
        return False

    def record_object(self, kind: Kind, desired: Mapping[str, Any], applied: Body) -> None:
        """Stores an applied object with the generation that it got."""
        generation = applied["metadata"].get("generation", 0)
        self._objects[kind, desired["metadata"]["name"]] = (_to_json(desired), generation)

    def status_differs(
        self, kind: Kind, name: str, desired: Mapping[str, Any], cached: Mapping[str, Any]
    ) -> bool:
        """Whether to apply a status."""
        return cached != desired and self._statuses.get((kind, name)) != (desired, cached)

    def record_status(
        self, kind: Kind, name: str, desired: Mapping[str, Any], applied: Body
    ) -> None:
        """Stores an applied status if the API server changed it."""
        stored = applied.get("status") or {}
        if stored == desired:
            self._statuses.pop((kind, name), None)
        else:
            self._statuses[kind, name] = (desired, stored)

    def forget(self, kind: Kind, name: str) -> None:
        """Removes a deleted object."""
        self._objects.pop((kind, name), None)
        self._statuses.pop((kind, name), None)


def _owner_uids(body: Mapping[str, Any]) -> set[str]:
    return {owner.get("uid", "") for owner in body["metadata"].get("ownerReferences") or ()}


def _to_json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)
