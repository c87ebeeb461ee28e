"""The bounds of one query, which the store enforces while it runs the statement."""

from attrs import field, frozen, validators

_DISK_FACTOR = 4
"""What exceeds half the memory in a sort or an aggregation goes to disk, up to so many times it."""


@frozen
class QueryLimits:
    """What one query may use.

    Attributes:
        seconds: The longest time that the store works on the statement.
        memory_bytes: The most memory that the statement may hold at a time.
        rows: The most rows of the answer.
        bytes: The largest answer, uncompressed.
        threads: The most threads that work on the statement.
    """

    seconds: float = field(default=60.0, validator=validators.gt(0))
    memory_bytes: int = field(default=1 << 30, validator=validators.gt(0))
    rows: int = field(default=100_000_000, validator=validators.gt(0))
    bytes: int = field(default=1 << 30, validator=validators.gt(0))
    threads: int = field(default=2, validator=validators.gt(0))

    def settings(self) -> dict[str, int | float]:
        """Returns the limits as settings of ClickHouse, which make the statement fail."""
        return {
            "max_execution_time": self.seconds,
            "max_memory_usage": self.memory_bytes,
            "max_result_rows": self.rows,
            "max_result_bytes": self.bytes,
            "max_threads": self.threads,
            "max_bytes_before_external_group_by": self.memory_bytes // 2,
            "max_bytes_before_external_sort": self.memory_bytes // 2,
            "max_temporary_data_on_disk_size_for_query": self.memory_bytes * _DISK_FACTOR,
        }
