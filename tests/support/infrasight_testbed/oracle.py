"""Compares recorded rows of some processes with the calls that strace saw, thread by thread.

A probe joins by a Comparison in `comparisons.py`, which names its calls and the expected row of a
call.
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
        name: The field that distinguishes the calls of a thread best.
        expected: Makes the expected fields of a call's row. `quality` is compared without the
            flags of user memory. The recorded row is passed for what strace does not show; it
            is empty where only the name is needed.
        outcome: Makes the expected fields of the later outcome of a call in progress.
    """

    calls: frozenset[str]
    name: str
    expected: Callable[[Call, Row], Row]
    outcome: Callable[[Call, Row, Traced], Row] = lambda _call, _row, _traced: {}

    def key(self, row: Row) -> bytes | int:
        """The name, up to a length at which neither side cuts it."""
        name = row[self.name]
        return name if isinstance(name, int) else bytes(name)[:KEY_BYTES]


@define
class Verdict:
    """The result of a comparison.

    Attributes:
        compared: The number of rows that belong to a call of strace, by probe.
        missing: Calls without a row.
        surplus: Rows without a call.
        wrong: A call, a field, its expected value, its recorded value.
        later: Calls whose file was deleted for strace, which looks later, but not for the probe.
        unended: Calls in which a thread was killed; strace shows neither result nor beginning.
        unbegun: Ends of calls that never began, because the thread was killed while strace held
            it at the entry. The kernel announces such an end; strace may not see it.
        outcomes: The number of outcomes of calls in progress, by probe.
        awaited: Rows of calls whose outcome did not come.
        flags: The flags in `quality` of the compared rows, counted by probe.
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
    flags: Counter[tuple[str, str]] = field(factory=Counter)

    def faults(self) -> set[str]:
        """The names of the faults that were found."""
        return {name for name in FAULTS if getattr(self, name)}

    def text(self) -> str:
        """A summary with the first faults of each kind."""
        lines = [
            f"compared {dict(self.compared)}, outcomes {dict(self.outcomes)}, unended "
            f"{len(self.unended)}, unbegun {len(self.unbegun)}, later {len(self.later)}"
        ]
        for name in FAULTS:
            items = getattr(self, name)
            lines.append(f"{len(items)} {name}")
            lines += [f"  {item}" for item in items[:5]]
        return "\n".join(lines)


@define
class Oracle:
    """All installed probes, recording at once.

    Attributes:
        recorder: The recorder of all probes.
        recorded: What it has delivered.
    """

    recorder: Recorder
    recorded: Recording
    _first: int = 0

    def begin(self) -> None:
        """Ignores earlier deliveries: thread ids may be reused."""
        self._first = len(self.recorded.deliveries)

    def rows(self, traced: Traced) -> dict[str, list[Row]]:
        """The rows since `begin` of the threads that strace saw, by probe."""
        submitted = {probe: counts.submitted for probe, counts in self.recorder.counts().items()}
        until(
            lambda: all(self._delivered()[probe] >= number for probe, number in submitted.items()),
            "all events are delivered",
        )
        rows: dict[str, list[Row]] = {probe: [] for probe in submitted}
        threads = pa.array(sorted(traced.threads), pa.uint32())
        for delivery in self.recorded.deliveries[self._first :]:
            ours = pc.is_in(delivery.batch["tid"].cast(pa.uint32()), threads)
            rows[delivery.probe] += delivery.batch.filter(ours).to_pylist()
        return rows

    def _delivered(self) -> Counter[str]:
        rows: Counter[str] = Counter()
        for delivery in self.recorded.deliveries:
            rows[delivery.probe] += delivery.batch.num_rows
        return rows


class _LargeBlocksPluginManager(PluginManager):
    """The installed plugins with large blocks, because stress-ng makes storms of long paths."""

    def load_bpf(self, probe: str, kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
        """The probe's program with more slots."""
        program = super().load_bpf(probe, kernel, options)
        return evolve(program, slots=max(program.slots, SLOTS))


@contextmanager
def oracle() -> Iterator[Oracle]:
    """Records with every installed probe while the body runs."""
    plugins = _LargeBlocksPluginManager.discover()
    recorded = Recording()
    assert not plugins.failures, plugins.failures
    recorder = Recorder(plugins, LoadSettings(memory=MEMORY), "here", recorded)
    for probe in plugins.probes():
        recorder.attach(probe, {})
    recorder.start()
    try:
        yield Oracle(recorder, recorded)
    finally:
        recorder.stop()
        assert recorder.failure is None


def compare(
    traced: Traced, rows: Mapping[str, Iterable[Row]], comparisons: Mapping[str, Comparison]
) -> Verdict:
    """Compares each thread's rows, in the order of their calls' beginnings, with its calls."""
    verdict = Verdict()
    probe_of = {}
    for probe, comparison in comparisons.items():
        probe_of.update(dict.fromkeys(comparison.calls, probe))
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
            elif call and call.result is not None:
                verdict.missing.append(call)
            elif call:
                verdict.unended.append(call)
            elif pair and tid in traced.killed and _has_only_an_end(pair[1]):
                verdict.unbegun.append(pair)
            elif pair:
                verdict.surplus.append(pair)
    verdict.surplus += [(probe, row) for (probe, _), left in outcomes.items() for row in left]
    return verdict


def _has_only_an_end(row: Row) -> bool:
    return "entry_missing" in row["quality"] and row["return_code"] == -errno.ENOSYS


def _check(
    verdict: Verdict, call: Call, probe: str, row: Row, comparisons: Mapping[str, Comparison]
) -> None:
    if call.result is None:  # the thread was killed; the row may have no more than the call's end
        verdict.unended.append(call)
        return
    quality = [flag for flag in row["quality"] if not flag.endswith("_user_memory")]
    expected = comparisons[probe].expected(call, row)
    found = {**row, "quality": quality}
    if expected.get("deleted") and not found["deleted"]:
        verdict.later.append(call)
        del expected["deleted"]
    verdict.wrong += [
        (call, name, value, found[name]) for name, value in expected.items() if found[name] != value
    ]
    verdict.compared[probe] += 1
    verdict.flags.update((probe, flag) for flag in quality)


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
    expected = comparisons[probe].outcome(call, row, traced)
    verdict.wrong += [
        (call, name, value, outcome[name])
        for name, value in expected.items()
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
        (probe, comparison.key(comparison.expected(call, {})))
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
