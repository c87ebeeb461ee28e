"""Conditions of a status, as Kubernetes' own objects have them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen


@frozen
class Condition:
    """What is to be said.

    Attributes:
        type: Of what.
        status: Whether it is so.
        reason: Why, in one word.
        message: Why, for people.
    """

    type: str
    status: bool
    reason: str
    message: str = ""


def conditions(
    wanted: Iterable[Condition],
    before: Sequence[Mapping[str, Any]],
    now: str,
    generation: int | None = None,
) -> list[dict[str, Any]]:
    """The list for the API; where the status of a condition is as before, so is the time since when."""
    since = {(old.get("type"), old.get("status")): old.get("lastTransitionTime") for old in before}
    made = []
    for condition in wanted:
        status = str(condition.status)
        entry: dict[str, Any] = {
            "type": condition.type,
            "status": status,
            "reason": condition.reason,
            "message": condition.message[:32768],
            "lastTransitionTime": since.get((condition.type, status)) or now,
        }
        if generation is not None:
            entry["observedGeneration"] = generation
        made.append(entry)
    return made
