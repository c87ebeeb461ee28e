"""Missing fields are counted by column, by the agent and by `infrasight verify`."""

from typing import Any

import numpy as np
import pytest
from infrasight_core.agent.quality_metrics import (
    EVENTS_WITH_MISSING_FIELDS,
    FIELDS_MISSING,
    count_missing_fields,
)
from infrasight_core.cli.missing_fields import add_missing_fields, summary
from infrasight_core.plugin.quality import QualityMasks


def test_agent_counts_missing_fields_by_column() -> None:
    """Each `…_missing` flag counts for its column; other flags do not; a slice counts its rows."""
    bits = ("entry_missing", "argv_cut", "argv_missing", "cwd_missing")
    masks = np.array([0b0010, 0b0100, 0b1100, 0, 0b0001, 0b0110], np.uint64)
    count_missing_fields("missing-test", QualityMasks(masks, bits).names())
    count_missing_fields("missing-test", QualityMasks(masks, bits).names().slice(2, 2))
    count_missing_fields("missing-test", QualityMasks(masks[3:4], bits).names())
    counted = {
        column: FIELDS_MISSING.labels("missing-test", column)._value.get()
        for column in ("argv", "cwd", "entry", "argv_cut")
    }
    assert counted == {"argv": 4, "cwd": 2, "entry": 1, "argv_cut": 0}
    assert EVENTS_WITH_MISSING_FIELDS.labels("missing-test")._value.get() == 5


@pytest.mark.parametrize(
    ("found", "share", "fields", "short"),
    [
        ([], 0.0, {}, "none"),
        ([(4, 0, {})], 0.0, {}, "none"),
        ([(4, 1, {"1": [b"cwd"], "2": [1]})], 0.25, {"cwd": 1}, "25.0% cwd"),
        (
            [(10_000, 7, {"1": [b"a", b"b", b"c", b"d"], "2": [1, 5, 2, 2]})],
            0.0007,
            {"b": 5, "c": 2, "d": 2, "a": 1},
            "<0.1% b, c, d and 1 more",
        ),
    ],
)
def test_verify_names_the_most_frequent_columns(
    found: list[tuple[int, int, dict[str, list[Any]]]],
    share: float,
    fields: dict[str, int],
    short: str,
) -> None:
    """A row has the share of incomplete rows and its columns, the most frequent one first."""
    row: dict[str, Any] = {"node": "n", "probe": "p"}
    asked = [
        {"node": "n", "probe": "p", "rows": rows, "incomplete_rows": incomplete, "fields": f}
        for rows, incomplete, f in found
    ]
    add_missing_fields(
        [row],
        [{"node": "n", "probe": "other", "rows": 1, "incomplete_rows": 1, "fields": {}}, *asked],
    )
    assert (row["incomplete_share"], list(row["missing_fields"].items())) == (
        share,
        list(fields.items()),
    )
    assert summary(row) == short
