"""Recognizes filters of a probe that no event can pass."""

from collections.abc import Mapping, Sequence
from typing import Any

_KINDS = ("Pid", "Uid", "Comm", "Cgroup")


def describe_blindness(filters: Mapping[str, Any]) -> str:
    """Returns why no event passes filters; empty if an event can pass.

    Args:
        filters: The filters of one probe, by the API's field names.
    """
    excluded_paths: Sequence[str] = filters.get("excludePath") or ()
    if "/" in excluded_paths:
        return "excludePath names /, which every path begins with"
    included_paths: Sequence[str] = filters.get("includePath") or ()
    if included_paths and all(path.startswith(tuple(excluded_paths)) for path in included_paths):
        return "excludePath covers every path of includePath"
    for kind in _KINDS:
        included = {str(value) for value in filters.get(f"include{kind}") or ()}
        excluded = {str(value) for value in filters.get(f"exclude{kind}") or ()}
        if included and included <= excluded:
            return f"exclude{kind} names every value of include{kind}"
    return ""
