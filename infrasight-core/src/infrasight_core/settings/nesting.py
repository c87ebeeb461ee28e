"""Limits how deep values are nested: code that walks a value by recursion fails on a deep one."""

from collections.abc import Mapping
from typing import Any


def is_deeper(value: Any, levels: int) -> bool:
    """Returns whether tables and lists are nested more than some levels deep.

    Args:
        value: A value, as read from JSON.
        levels: The number of levels that are allowed.
    """
    inner = [value]
    for _ in range(levels):
        outer = inner
        inner = []
        for item in outer:
            if isinstance(item, Mapping):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
    return any(isinstance(item, Mapping | list) for item in inner)
