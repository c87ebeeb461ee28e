"""The part of `infrasight verify` that says which fields the period's rows went without."""

from collections.abc import Mapping, Sequence
from typing import Any

SQL = """
SELECT node, probe, sum(m.rows) AS rows, sumIf(m.rows, notEmpty(m.missing)) AS lacking,
       sumMap(m.missing, arrayWithConstant(length(m.missing), m.rows)) AS fields
FROM missing AS m
WHERE time >= now() - {seconds}{conditions}
GROUP BY node, probe
"""
_NAMED = 3  # columns that the table has room for


def add_missing_fields(rows: Sequence[dict[str, Any]], found: Sequence[Mapping[str, Any]]) -> None:
    """Gives each row of verify `lacking`, `lacking_share` and `missing_fields` (rows by column, the most frequent first).

    Args:
        rows: A row per node and probe.
        found: What `SQL` answers.
    """
    by_key = {(row["node"], row["probe"]): row for row in found}
    for row in rows:
        said = by_key.get((row["node"], row["probe"]), {"rows": 0, "lacking": 0, "fields": {}})
        names, counts = said["fields"].values() if said["fields"] else ((), ())
        pairs = sorted(zip(names, counts, strict=True), key=lambda pair: (-pair[1], pair[0]))
        row["lacking"] = said["lacking"]
        row["lacking_share"] = said["lacking"] / said["rows"] if said["rows"] else 0.0
        row["missing_fields"] = {
            name.decode("utf-8", "backslashreplace"): count for name, count in pairs
        }


def in_short(row: Mapping[str, Any]) -> str:
    """The share of rows that lack something and what it is most often: `2.5 % container_name, cwd`."""
    if not row["lacking"]:
        return "none"
    names = list(row["missing_fields"])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    share = f"{row['lacking_share']:.1%}" if row["lacking_share"] >= 0.001 else "<0.1%"
    return f"{share} {', '.join(names[:_NAMED])}{more}"
