"""Counts the missing fields of each batch that the recorder delivers, as Prometheus metrics."""

import pyarrow as pa
from prometheus_client import Counter

from infrasight_core.plugin.quality import count_missing

FIELDS_MISSING = Counter(
    "infrasight_fields_missing",
    "Fields without a value, by column; each is flagged in the event's `quality`.",
    ["probe", "column"],
)
EVENTS_WITH_MISSING_FIELDS = Counter(
    "infrasight_events_with_missing_fields",
    "Events with at least one missing field.",
    ["probe"],
)


def count_missing_fields(probe: str, quality: pa.ListArray) -> None:
    """Adds the missing fields of one batch to the metrics.

    Args:
        probe: The probe that recorded the batch.
        quality: The column of the conforming batch.
    """
    rows_by_column, rows = count_missing(quality)
    for column, count in rows_by_column.items():
        FIELDS_MISSING.labels(probe, column).inc(count)
    if rows:
        EVENTS_WITH_MISSING_FIELDS.labels(probe).inc(rows)
