"""Compares what the probes recorded of a descent of processes with what strace saw of it, call by call, thread by thread.

A probe joins by a Comparison in `comparisons.py`: which calls are its own, and what a row must say of a call.
"""

import difflib
import errno
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, evolve, field, frozen
from infrasight_core import BpfProgram, Kernel
from infrasight_core.agent.recorder import Recorder
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording

from infrasight_testbed.strace import Call, Traced
from infrasight_testbed.system import until

Row = dict[str, Any]
SLOTS = 32768
MEMORY = 256 << 20
FAULTS = ("missing", "surplus", "wrong", "awaited")
KEY_BYTES = 256  # a longer name may be cut, by strace or by the probe


@frozen
class Comparison:
    """How a probe's rows are compared with strace's calls.

    Attributes:
        calls: The system calls that make its events.
        name: The row's field that tells calls of one thread apart best.
        wanted: What a call's row must hold, by field. `quality` is compared without what is always there: that a text came from
            user memory. The row itself is there for what strace does not show; without one, for the call's name alone, it is
            empty.
        outcome: What the row must hold that says how a call ended which came back before (`stage`, `in_progress`).
    """

    calls: frozenset[str]
    name: str
    wanted: Callable[[Call, Row], Row]
    outcome: Callable[[Call, Row, Traced], Row] = lambda _call, _row, _traced: {}

    def key(self, found: Row) -> bytes | int:
        """The name, as far as it is never cut."""
        name = found[self.name]
        return name if isinstance(name, int) else bytes(name)[:KEY_BYTES]


@define
class Verdict:
    """What the comparison found.

    Attributes:
        compared: How many rows fit a call of strace's, by probe.
        missing: Calls without a row.
        surplus: Rows without a call.
        wrong: A call, a field, what it must hold, what the row holds.
        later: Calls whose file strace, which looks later than the probe, found deleted and the probe did not.
        unended: Calls of threads that were killed in them; strace does not know how they ended, nor whether they began.
        unbegun: Ends of calls that never began, of threads that were killed as strace held them at a call's entry; the kernel
            announces such an end, which strace may never hear of.
        outcomes: How many outcomes there are of what calls began, by probe.
        awaited: Rows of calls that promise an outcome, which has not come.
        said: What the compared rows say of themselves in `quality`, counted by probe.
    """

    compared: Counter[str] = field(factory=Counter)
    missing: list[Call] = field(factory=list)
    surplus: list[tuple[str, Row]] = field(factory=list)
    wrong: list[tuple[Call, str, Any, Any]] = field(factory=list)
    later: list[Call] = field(factory=list)
    unended: list[Call] = field(factory=list)
    unbegun: list[tuple[str, Row]] = field(factory=list)
    outcomes: Counter[str] = field(factory=Counter)
    awaited: list[Row] = field(factory=list)
    said: Counter[tuple[str, str]] = field(factory=Counter)

    def faults(self) -> set[str]:
        """What of FAULTS there is."""
        return {name for name in FAULTS if getattr(self, name)}

    def text(self) -> str:
        """For people: the first of each kind."""
        parts = [f"compared {dict(self.compared)}, outcomes {dict(self.outcomes)}, "]
        parts[0] += (
            f"unended {len(self.unended)}, unbegun {len(self.unbegun)}, later {len(self.later)}"
        )
        for name in FAULTS:
            found = getattr(self, name)
            parts += [f"{len(found)} {name}"] + [f"  {item}" for item in found[:5]]
        return "\n".join(parts)


@define
class Oracle:
    """All installed probes, recording at once.

    Attributes:
        recorder: What records.
        kept: What it has delivered.
    """

    recorder: Recorder
    kept: Recording
    _first: int = 0

    def begin(self) -> None:
        """Leaves out what was delivered before: a thread's id may come again."""
        self._first = len(self.kept.deliveries)

    def rows(self, traced: Traced) -> dict[str, list[Row]]:
        """The rows since `begin` of the threads that strace saw, by probe."""
        submitted = {probe: counts.submitted for probe, counts in self.recorder.counts().items()}
        until(
            lambda: all(self._came()[probe] >= number for probe, number in submitted.items()),
            "all events have come",
        )
        rows: dict[str, list[Row]] = {probe: [] for probe in submitted}
        threads = pa.array(sorted(traced.threads), pa.uint32())
        for delivery in self.kept.deliveries[self._first :]:
            ours = pc.is_in(delivery.batch["tid"].cast(pa.uint32()), threads)
            rows[delivery.probe] += delivery.batch.filter(ours).to_pylist()
        return rows

    def _came(self) -> Counter[str]:
        came: Counter[str] = Counter()
        for delivery in self.kept.deliveries:
            came[delivery.probe] += delivery.batch.num_rows
        return came


class _Roomy(PluginManager):
    """The installed plugins, with blocks that hold a storm of paths of 4 KiB: stress-ng makes those."""

    def load_bpf(self, probe: str, kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
        """The probe's program."""
        program = super().load_bpf(probe, kernel, options)
        return evolve(program, slots=max(program.slots, SLOTS))


@contextmanager
def oracle() -> Iterator[Oracle]:
    """Records with every installed probe while the body runs."""
    plugins = _Roomy.discover()
    kept = Recording()
    assert not plugins.failures, plugins.failures
    recorder = kept.recorder = Recorder(plugins, LoadSettings(memory=MEMORY), "here", kept)
    for probe in plugins.probes():
        recorder.attach(probe, {})
    recorder.start()
    try:
        yield Oracle(recorder, kept)
    finally:
        recorder.stop()
        assert recorder.failure is None


def compare(
    traced: Traced, rows: Mapping[str, Iterable[Row]], comparisons: Mapping[str, Comparison]
) -> Verdict:
    """Compares each thread's rows, in the order of their calls' beginnings, with its calls."""
    verdict = Verdict()
    probe_of = {
        call: probe for probe, comparison in comparisons.items() for call in comparison.calls
    }
    calls = defaultdict[int, list[Call]](list)
    recorded = defaultdict[int, list[tuple[str, Row]]](list)
    for seen in traced.calls:
        if seen.name in probe_of:
            calls[seen.tid].append(seen)
    outcomes = defaultdict[tuple[str, int], list[Row]](list)
    for probe in comparisons:
        for row in rows.get(probe, ()):
            if row.get("stage", b"call") == b"call":
                recorded[row["tid"]].append((probe, row))
            else:
                outcomes[probe, row["connection_id"]].append(row)
    for tid in sorted(calls.keys() | recorded.keys()):
        theirs = calls[tid]
        ours = sorted(recorded[tid], key=lambda pair: pair[1]["time"])
        for call, pair in _aligned(theirs, ours, probe_of, comparisons):
            if call and pair:
                _check(verdict, call, *pair, comparisons)
                _check_outcome(verdict, call, *pair, comparisons, outcomes, traced)
            elif call:
                (verdict.missing if call.result is not None else verdict.unended).append(call)
            elif pair:
                (
                    verdict.unbegun
                    if tid in traced.killed and _is_end_alone(pair[1])
                    else verdict.surplus
                ).append(pair)
    verdict.surplus += [(probe, row) for (probe, _), left in outcomes.items() for row in left]
    return verdict


def _is_end_alone(row: Row) -> bool:
    return "entry_missing" in row["quality"] and row["return_code"] == -errno.ENOSYS


def _check(
    verdict: Verdict, call: Call, probe: str, row: Row, comparisons: Mapping[str, Comparison]
) -> None:
    if (
        call.result is None
    ):  # killed before it began, the kernel may announce its end alone: such a row has no more than that
        verdict.unended.append(call)
        return
    quality = [said for said in row["quality"] if not said.endswith("_user_memory")]
    wanted = comparisons[probe].wanted(call, row)
    found = {**row, "quality": quality}
    if wanted.get("deleted") and not found["deleted"]:
        verdict.later.append(call)
        del wanted["deleted"]
    verdict.wrong += [
        (call, name, value, found[name]) for name, value in wanted.items() if found[name] != value
    ]
    verdict.compared[probe] += 1
    verdict.said.update((probe, said) for said in quality)


def _check_outcome(
    verdict: Verdict,
    call: Call,
    probe: str,
    row: Row,
    comparisons: Mapping[str, Comparison],
    outcomes: dict[tuple[str, int], list[Row]],
    traced: Traced,
) -> None:
    """A call that returned early has exactly one outcome, unless its row flags it missing."""
    if not row.get("in_progress") or "outcome_missing" in row["quality"]:
        return
    found = outcomes.get((probe, row["connection_id"]))
    if not found:
        verdict.awaited.append(row)
        return
    outcome = found.pop(0)
    wanted = comparisons[probe].outcome(call, row, traced)
    verdict.wrong += [
        (call, name, value, outcome[name])
        for name, value in wanted.items()
        if outcome[name] != value
    ]
    verdict.outcomes[probe] += 1


def _aligned(
    calls: list[Call],
    rows: list[tuple[str, Row]],
    probe_of: Mapping[str, str],
    comparisons: Mapping[str, Comparison],
) -> Iterator[tuple[Call | None, tuple[str, Row] | None]]:
    """Pairs calls and rows in order; the longest equal runs realign the rest."""
    compared = [(probe_of[call.name], comparisons[probe_of[call.name]]) for call in calls]
    theirs = [
        (probe, comparison.key(comparison.wanted(call, {})))
        for call, (probe, comparison) in zip(calls, compared, strict=True)
    ]
    ours = [(probe, comparisons[probe].key(row)) for probe, row in rows]
    if theirs == ours:
        yield from zip(calls, rows, strict=True)
        return
    for kind, i, j, k, m in difflib.SequenceMatcher(
        None, theirs, ours, autojunk=False
    ).get_opcodes():
        both = min(j - i, m - k) if kind in ("equal", "replace") else 0
        yield from zip(calls[i : i + both], rows[k : k + both], strict=True)
        yield from ((left, None) for left in calls[i + both : j])
        yield from ((None, left) for left in rows[k + both : m])
