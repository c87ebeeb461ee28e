"""Parses quantities: memory sizes, and numbers or percentages of nodes."""

_FACTORS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def parse_bytes(quantity: int | str) -> int:
    """Converts a memory size such as `64Mi` to bytes."""
    text = str(quantity)
    return int(text.rstrip("KMGi")) * _FACTORS.get(text[-2:], 1)


def resolve_max_unavailable(max_unavailable: int | str, nodes: int) -> int:
    """How many agents may be down at once.

    A percentage is rounded up, as the DaemonSet controller does; the result is at least 1.
    """
    if isinstance(max_unavailable, int):
        return max(1, max_unavailable)
    percent = int(max_unavailable.removesuffix("%"))
    return max(1, -(-nodes * percent // 100))
