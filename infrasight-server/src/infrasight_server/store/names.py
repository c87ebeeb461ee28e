"""Writes names and values into statements."""


def quoted(name: str) -> str:
    """Returns a name as ClickHouse reads it, also if it has odd characters."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def literal(value: object) -> str:
    """Returns a value as an SQL string literal."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
