"""After how many days the store deletes the rows of each probe, and their accounts."""

from collections.abc import Mapping

from attrs import Factory, frozen

from infrasight_server.store.names import literal

_EARLY_HOURS = 1
"""How long before its deletion a row leaves the view: a batch can begin in an earlier minute."""


@frozen
class Ttl:
    """The time to live of rows, in days.

    Attributes:
        days: That of probes without an entry in `by_probe`; None: rows are never deleted.
        by_probe: That of some probes, by name.
    """

    days: int | None = None
    by_probe: Mapping[str, int] = Factory(dict)

    @property
    def longest(self) -> int | None:
        """The longest of all probes; None if the rows of some are never deleted."""
        return None if self.days is None else max([self.days, *self.by_probe.values()])

    def of(self, probe: str) -> int | None:
        """Returns the days of a probe; None: never."""
        return self.by_probe.get(probe, self.days)

    def accounts_clause(self) -> str:
        """Returns the TTL of a table with rows about all probes as SQL; "" for never."""
        return ", ".join(
            f"{expiry(days)} DELETE WHERE {probes}" if probes else expiry(days)
            for probes, days in self._groups()
        )

    def expired_condition(self) -> str:
        """Returns an SQL condition on `probe` and `window`: rows of it may be deleted by now."""
        conditions = ["false"]
        for probes, days in self._groups():
            age = f"toIntervalDay({days}) - toIntervalHour({_EARLY_HOURS})"
            expired = f"toDateTime(window * 60, 'UTC') < now() - ({age})"
            conditions.append(f"{probes} AND {expired}" if probes else expired)
        return " OR ".join(conditions)

    def _groups(self) -> list[tuple[str, int]]:
        """Returns a condition on `probe`, "" for all, and the days of each group with a TTL."""
        groups = [(f"probe = {literal(probe)}", days) for probe, days in self.by_probe.items()]
        if self.days is not None:
            names = ", ".join(literal(probe) for probe in self.by_probe)
            groups.append((f"probe NOT IN ({names})" if names else "", self.days))
        return groups


def expiry(days: int) -> str:
    """Returns when the store deletes a row, as SQL."""
    return f"toDateTime(time) + INTERVAL {days} DAY"
