"""The result of `infrasight loadtest`, as JSON and as a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import asdict, field, frozen
from rich.console import Console
from rich.text import Text

from infrasight_core.cli.table import Column, print_table
from infrasight_core.console.streams import printable

_COLUMNS = (Column("FIGURE"), Column("VALUE", is_number=True), Column("MEANING"))
_UNKNOWN = {
    "agent": "not one agent that records the probe: use --agent-pid",
    "server": "not on this machine, or not found: use --server-pid",
    "store": "not on this machine",
}
_REACHED = 0.95  # the share of the rate that counts as reached
_CPU = "CPU of the {part}, per event"


@frozen
class Order:
    """What load to make.

    Attributes:
        probe: The probe that records the events.
        rate: Events per second; 0 for as many as possible.
        seconds: How long events are made while they are recorded.
        rounds: How many times recorded and unrecorded calls alternate.
        processes: How many processes make events.
    """

    probe: str
    rate: float
    seconds: float
    rounds: int
    processes: int


@frozen
class Latency:
    """The time from the end of an event's call until the event is available.

    Attributes:
        until: Where it is available.
        median_ms: The median in milliseconds.
        percentile_99_ms: The 99th percentile in milliseconds.
        events: Of how many events.
    """

    until: str
    median_ms: float
    percentile_99_ms: float
    events: int

    @classmethod
    def of(cls, until: str, milliseconds: Sequence[float]) -> "Latency | None":
        """Returns the latency of some events; None without any."""
        if not len(milliseconds):
            return None
        median, percentile = np.percentile(milliseconds, [50, 99])
        return cls(until, round(float(median), 1), round(float(percentile), 1), len(milliseconds))


@frozen
class CallCost:
    """What a call costs the program that makes it, as medians of alternating rounds.

    Attributes:
        unrecorded_ns: The CPU time of a call while it is not recorded, in nanoseconds.
        recorded_ns: The same while it is recorded.
    """

    unrecorded_ns: float
    recorded_ns: float

    @property
    def added_ns(self) -> float:
        """What recording adds to a call."""
        return self.recorded_ns - self.unrecorded_ns


@frozen
class LoadResult:
    """What a load test found.

    Attributes:
        order: The load that was asked for.
        made: How many events were made.
        made_per_second: How many a second, on average.
        recorded: How many arrived.
        dropped: How many were dropped, by reason.
        cpu_us: The CPU time of each part per event, in microseconds; None where it is unknown.
        latency: The latency, if events arrived.
        call: What the calls cost, if that was measured.
        notes: What the reader must know about the figures.
    """

    order: Order
    made: int
    made_per_second: float
    recorded: int
    dropped: Mapping[str, int]
    cpu_us: Mapping[str, float | None]
    latency: Latency | None
    call: CallCost | None
    notes: Sequence[str] = field(factory=tuple)

    @property
    def missing(self) -> int:
        """Events that were made and neither recorded nor dropped; 0 if every one is accounted for.

        Negative if more were recorded than made.
        """
        return self.made - self.recorded - sum(self.dropped.values())

    def as_object(self) -> dict[str, Any]:
        """Returns it as one JSON object."""
        call = self.call
        found = asdict(self)
        return {
            **found.pop("order"),
            **found,
            "missing": self.missing,
            "call": call and {**asdict(call), "added_ns": round(call.added_ns, 1)},
        }

    def print_table(self) -> None:
        """Prints it as a table."""
        rows = [[Text(printable(cell)) for cell in row] for row in self._rows()]
        console = Console()
        print_table(console, _COLUMNS, rows)
        for note in self.notes:
            console.print(Text(printable(note), "dim"), soft_wrap=True)

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        yield "made", f"{self.made:,}", self._rate()
        yield "recorded", f"{self.recorded:,}", ""
        if not self.dropped:
            yield "dropped", "0", ""
        for reason, events in self.dropped.items():
            yield "dropped", f"{events:,}", reason
        yield "missing", f"{self.missing:,}", "made - recorded - dropped; must be 0"
        for part, microseconds in self.cpu_us.items():
            if microseconds is None:
                yield _CPU.format(part=part), "-", _UNKNOWN[part]
            else:
                yield _CPU.format(part=part), f"{microseconds:.2f} µs", ""
        if self.latency is not None:
            until = f"of {self.latency.events:,} events, {self.latency.until}"
            yield "latency, median", f"{self.latency.median_ms:,.1f} ms", until
            yield "latency, 99 %", f"{self.latency.percentile_99_ms:,.1f} ms", "99th percentile"
        if self.call is not None:
            rounds = f"median of {self.order.rounds} rounds"
            yield "call, not recorded", f"{self.call.unrecorded_ns:,.0f} ns", rounds
            yield "call, recorded", f"{self.call.recorded_ns:,.0f} ns", rounds
            yield "recording adds", f"{self.call.added_ns:,.0f} ns", "to each call"

    def _rate(self) -> str:
        rate = f"{self.made_per_second:,.0f} a second"
        if self.order.rate and self.made_per_second < _REACHED * self.order.rate:
            return f"{rate} of {self.order.rate:,.0f}: more --processes, or the machine is busy"
        return rate
