"""Writes names into statements."""


def quoted(name: str) -> str:
    """Returns a name as ClickHouse reads it, also if it has odd characters."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
