"""What a row of chmod by path says, which is more where the kernel lets a program see the file."""

from functools import cache
from typing import Any

from infrasight_core.kernel.loader import unattachable_functions

NOT_HAD = ["path_user_memory", "resolved_path_user_memory", "old_mode_missing"]


@cache
def has_function() -> bool:
    """Whether a program can attach to the function that shows the file of a call by path."""
    return not unattachable_functions(["security_path_chmod"])


def changed(old_mode: int, resolved: bytes, joined: bytes | None = None) -> dict[str, Any]:
    """What the row of a call by path says once the kernel has come to the change.

    Args:
        old_mode: The mode before.
        resolved: The file's path.
        joined: The kernel's directory and the string given, where that is another.
    """
    if has_function():
        return {"resolved_path": resolved, "old_mode": old_mode, "quality": ["path_user_memory"]}
    return {"resolved_path": joined or resolved, "old_mode": 0, "quality": NOT_HAD}
