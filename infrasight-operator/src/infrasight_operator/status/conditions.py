"""Status conditions, as in Kubernetes' own objects."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

_MAX_MESSAGE_CHARACTERS = 32768


@frozen
class Condition:
    """A condition without its transition time.

    Attributes:
        type: The name of the condition.
        status: Whether the condition is true.
        reason: The cause, in one CamelCase word.
        message: The cause, in a sentence.
    """

    type: str
    status: bool
    reason: str
    message: str = ""


def build_conditions(
    conditions: Iterable[Condition],
    previous: Sequence[Mapping[str, Any]],
    now: str,
    generation: int | None = None,
) -> list[dict[str, Any]]:
    """The `conditions` list of a status.

    A condition whose status is unchanged keeps its transition time.

    Args:
        conditions: The conditions.
        previous: The list in the previous status.
        now: The time, in the API's format.
        generation: The generation of the spec that the status describes.
    """
    transition_times = {
        (entry.get("type"), entry.get("status")): entry.get("lastTransitionTime")
        for entry in previous
    }
    entries = []
    for condition in conditions:
        status = str(condition.status)
        entry: dict[str, Any] = {
            "type": condition.type,
            "status": status,
            "reason": condition.reason,
            "message": condition.message[:_MAX_MESSAGE_CHARACTERS],
            "lastTransitionTime": transition_times.get((condition.type, status)) or now,
        }
        if generation is not None:
            entry["observedGeneration"] = generation
        entries.append(entry)
    return entries
