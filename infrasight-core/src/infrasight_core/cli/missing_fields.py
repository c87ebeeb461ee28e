"""The part of `infrasight verify` about unavailable fields."""

from collections.abc import Mapping, Sequence
from typing import Any

from infrasight_core.cli.format import shown

SQL = """
SELECT node, probe, sum(m.rows) AS rows, sumIf(m.rows, notEmpty(m.missing)) AS incomplete_rows,
       sumMap(m.missing, arrayWithConstant(length(m.missing), m.rows)) AS fields
FROM missing AS m
WHERE time >= now() - {seconds}{conditions}
GROUP BY node, probe
"""
_NAMED_FIELDS = 3  # the table has room for no more


def add_missing_fields(
    accounts: Sequence[dict[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> None:
    """Adds to each account how many rows miss a field, and which fields.

    The keys are `incomplete_rows`, `incomplete_share` (of all rows) and `missing_fields` (rows by
    field, the most frequent first).

    Args:
        accounts: One row of verify for each node and probe.
        answers: The rows that `SQL` returns.
    """
    answers_by_key = {(answer["node"], answer["probe"]): answer for answer in answers}
    nothing = {"rows": 0, "incomplete_rows": 0, "fields": {}}
    for account in accounts:
        answer = answers_by_key.get((account["node"], account["probe"]), nothing)
        account["incomplete_rows"] = answer["incomplete_rows"]
        account["incomplete_share"] = 0.0
        if answer["rows"]:
            account["incomplete_share"] = answer["incomplete_rows"] / answer["rows"]
        names, counts = answer["fields"].values() if answer["fields"] else ((), ())
        fields = [(shown(name), count) for name, count in zip(names, counts, strict=True)]
        fields.sort(key=lambda field: (-field[1], field[0]))
        account["missing_fields"] = dict(fields)


def summary(account: Mapping[str, Any]) -> str:
    """The share of incomplete rows and the most frequent fields: `2.5% container_name, cwd`."""
    if not account["incomplete_rows"]:
        return "none"
    names = list(account["missing_fields"])
    more = f" and {len(names) - _NAMED_FIELDS} more" if len(names) > _NAMED_FIELDS else ""
    share = account["incomplete_share"]
    percentage = f"{share:.1%}" if share >= 0.001 else "<0.1%"
    return f"{percentage} {', '.join(names[:_NAMED_FIELDS])}{more}"
