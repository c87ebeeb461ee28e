"""Counts the fields that events went without, as their `quality` says."""

import numpy as np
import pyarrow as pa
from prometheus_client import Counter

from infrasight_core.plugin.arrays import view

MISSING = Counter(
    "infrasight_fields_missing",
    "Fields that events could not be given, as `quality` says.",
    ["probe", "column"],
)
INCOMPLETE = Counter(
    "infrasight_events_with_missing_fields", "Events that went without some field.", ["probe"]
)
_FLAG = "_missing"


def count_missing(probe: str, quality: pa.Array) -> None:
    """Adds up a batch's flags `<column>_missing`.

    Args:
        probe: Whose events.
        quality: The batch's column, as `conform` leaves it: lists of dictionary-encoded names.
    """
    items = quality.flatten()
    if not len(items):
        return
    names = items.dictionary.to_pylist()
    codes = view(items.indices)
    counts = np.bincount(codes, minlength=len(names))
    missing = np.array([name.endswith(_FLAG) for name in names])
    for code in np.flatnonzero(missing & (counts > 0)):
        MISSING.labels(probe, names[code].removesuffix(_FLAG)).inc(int(counts[code]))
    before = np.concatenate(([0], np.cumsum(missing[codes])))  # flags before each item
    offsets = view(quality.offsets) - view(quality.offsets)[0]
    if lacking := int(np.count_nonzero(np.diff(before[offsets]))):
        INCOMPLETE.labels(probe).inc(lacking)
