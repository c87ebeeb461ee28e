"""Reports whether the rows of a table reach the store; `/readyz` asks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from infrasight_server import metrics

_SLOW_SECONDS = 10.0


class TableHealth:
    """Knows since when and why no row of a table can be inserted.

    Args:
        table: The table's name.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._failing_since = 0.0  # 0: the last insert succeeded
        self._reason = ""
        self._attempt_began = 0.0  # 0: none is running
        metrics.INSERT_FAILING.labels(table).set(0)

    def failed(self, reason: str) -> None:
        """Notes that rows wait because an insert failed."""
        self._failing_since = self._failing_since or time.time()
        self._reason = reason
        metrics.INSERT_FAILING.labels(self._table).set(1)

    def succeeded(self) -> None:
        """Notes that the store has taken rows."""
        self._failing_since = 0.0
        metrics.INSERT_FAILING.labels(self._table).set(0)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Measures how long the store takes for an attempt."""
        self._attempt_began = time.time()
        try:
            yield
        finally:
            self._attempt_began = 0.0

    def describe(self, waiting_rows: int) -> str:
        """Returns since when no row is inserted and why, in one line; "" if all is well.

        It may be called in any thread.

        Args:
            waiting_rows: The number of rows that wait.
        """
        since = self._failing_since
        reason = self._reason
        began = self._attempt_began
        if began and time.time() - began > _SLOW_SECONDS:
            since = since or began
            reason = f"the store has not answered for {time.time() - began:.0f} s"
        if not since:
            return ""
        moment = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"table {self._table}: no insert since {moment}, {waiting_rows} rows wait: {reason}"
