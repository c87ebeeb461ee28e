"""Amounts as people write them in objects, as numbers."""

_FACTORS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def in_bytes(quantity: int | str) -> int:
    """`64Mi` as a number."""
    text = str(quantity)
    return int(text.rstrip("KMGi")) * _FACTORS.get(text[-2:], 1)


def at_once(max_unavailable: int | str, nodes: int) -> int:
    """How many agents may be away at once; of a part, rounded up, as the DaemonSet's controller does, and never none."""
    if isinstance(max_unavailable, int):
        return max(1, max_unavailable)
    return max(1, -(-nodes * int(max_unavailable.removesuffix("%")) // 100))
