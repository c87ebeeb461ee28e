"""What differs between what is wanted and what was seen, so that only that is written."""

import json
from collections.abc import Mapping
from typing import Any

from infrasight_operator.kube.object_cache import Body
from infrasight_operator.kube.resources import Kind
from infrasight_operator.manifests.daemonset import DIGEST

Key = tuple[Kind, str]


class AppliedState:
    """What was written, so that nothing is written twice because the API server keeps it in another form than it was given."""

    def __init__(self) -> None:
        self._objects: dict[Key, tuple[str, int]] = {}
        self._statuses: dict[Key, tuple[Any, Any]] = {}

    def object_differs(self, kind: Kind, wanted: Mapping[str, Any], seen: Body | None) -> bool:
        """Whether an object is to be applied."""
        if seen is None or _owners(seen) != _owners(wanted):
            return True
        key = kind, wanted["metadata"]["name"]
        about = seen["metadata"]
        if self._objects.get(key) == (_text(wanted), about.get("generation", 0)):
            return False
        if (
            kind is Kind.DAEMON_SET
        ):  # full of defaults: it is known by its digest, and by having been written since it was changed
            unchanged = (about.get("annotations") or {}).get(DIGEST) == wanted["metadata"][
                "annotations"
            ][DIGEST]
            return not unchanged or about.get("generation", 0) != 1
        if seen.get("spec") != wanted["spec"]:
            return True
        self.object_written(kind, wanted, seen)
        return False

    def object_written(self, kind: Kind, wanted: Mapping[str, Any], answer: Body) -> None:
        """Remembers what was applied, and which generation it became."""
        self._objects[kind, wanted["metadata"]["name"]] = (
            _text(wanted),
            answer["metadata"].get("generation", 0),
        )

    def status_differs(
        self, kind: Kind, name: str, wanted: Mapping[str, Any], seen: Mapping[str, Any]
    ) -> bool:
        """Whether a status is to be applied."""
        return seen != wanted and self._statuses.get((kind, name)) != (wanted, seen)

    def status_written(
        self, kind: Kind, name: str, wanted: Mapping[str, Any], answer: Body
    ) -> None:
        """Remembers a status, and what became of it."""
        became = answer.get("status") or {}
        if became == wanted:
            self._statuses.pop((kind, name), None)
        else:
            self._statuses[kind, name] = (wanted, became)

    def forget(self, kind: Kind, name: str) -> None:
        """An object has gone."""
        self._objects.pop((kind, name), None)
        self._statuses.pop((kind, name), None)


def _owners(body: Mapping[str, Any]) -> set[str]:
    return {owner.get("uid", "") for owner in body["metadata"].get("ownerReferences") or ()}


def _text(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)
