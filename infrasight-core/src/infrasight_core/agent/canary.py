"""Checks that every probe still records: causes an event of each now and then, and waits for it.

A program that is detached, or a map that another process rewrites, makes a probe silent without any
error. The canary notices that. Its events take the way of every event up to the recorder, which
counts them as filtered; see bpf/filter.bpf.h.
"""

import ctypes
import secrets
import threading
import time
from collections.abc import Iterable

import structlog
from prometheus_client import Counter

from infrasight_core.agent.recorder import Recorder
from infrasight_core.kernel.filters import CANARY_THREAD

log = structlog.get_logger(__name__)
CANARY_EVENTS = Counter(
    "infrasight_canary_events",
    "Events that the agent caused to see whether a probe records: `arrived` or `missing`.",
    ["probe", "outcome"],
)
MAPS_RESTORED = Counter(
    "infrasight_filter_maps_restored",
    "Times that the agent restored the filters of a probe or tracker, or the tables of the "
    "`dispatcher`, which another process had rewritten.",
    ["plugin"],
)
PROGRAMS_DETACHED = Counter(
    "infrasight_programs_found_detached",
    "Times that a program of a probe, a tracker or the `dispatcher` was found detached from its "
    "tracepoint or kernel function.",
    ["plugin"],
)
_LONGEST_WAIT = 30.0  # seconds that an event may take on a busy machine
_RETRY_SECONDS = 1.0  # an event may be dropped because a block is full
_POLL_SECONDS = 0.02
_PR_SET_NAME = 15


class Canary:
    """A thread that checks the probes of a recorder at intervals.

    Args:
        recorder: Runs the probes.
        interval: Seconds between two checks; 0 for none.
    """

    def __init__(self, recorder: Recorder, interval: float) -> None:
        self._recorder = recorder
        self._interval = interval
        self._problems: dict[str, str] = {}
        self._without_canary: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    @property
    def problems(self) -> dict[str, str]:
        """What the latest check found, by probe, tracker or `dispatcher`; empty if all is well."""
        return self._problems

    def start(self) -> None:
        """Starts the thread."""
        if self._interval:
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        name = ctypes.create_string_buffer(CANARY_THREAD)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)
        while not self._stop.wait(self._interval):
            try:
                self._update(self._check())
            except Exception:  # the next check may succeed
                log.exception("the check of the probes failed")

    def _check(self) -> dict[str, str]:
        problems: dict[str, list[str]] = {}
        for name, events in self._recorder.detached_programs().items():
            PROGRAMS_DETACHED.labels(name).inc()
            problems[name] = [f"no longer attached to {', '.join(events)}; restart the agent"]
        for name, differences in self._recorder.restore_maps().items():
            MAPS_RESTORED.labels(name).inc()
            problems.setdefault(name, []).append(
                "another process rewrote maps in the kernel, which are restored now: "
                + ", ".join(differences)
            )
        for probe in self._silent_probes():
            problems.setdefault(probe, []).append(
                "the canary event did not arrive: its programs are detached or its maps rewritten; "
                "restart the agent"
            )
        return {name: "; ".join(texts) for name, texts in problems.items()}

    def _silent_probes(self) -> Iterable[str]:
        """Causes an event of each probe; returns the probes whose event does not arrive."""
        token = f"infrasight-canary-{secrets.token_hex(8)}"
        waiting = self._probes_with_canary()
        deadline = time.monotonic() + min(_LONGEST_WAIT, self._interval / 2)
        while waiting and time.monotonic() < deadline and not self._stop.is_set():
            for probe in waiting:
                self._recorder.cause_canary(probe, token)
            waiting = self._wait(waiting, token, min(deadline, time.monotonic() + _RETRY_SECONDS))
        if self._stop.is_set():
            return ()
        silent = waiting & set(self._recorder.probes())
        for probe in silent:
            CANARY_EVENTS.labels(probe, "missing").inc()
        return sorted(silent)

    def _wait(self, probes: set[str], token: str, deadline: float) -> set[str]:
        """Waits for the event of each probe; returns the probes whose event has not arrived."""
        waiting = set(probes)
        while waiting and time.monotonic() < deadline and not self._stop.wait(_POLL_SECONDS):
            arrived = {probe for probe in waiting if self._recorder.has_canary(probe, token)}
            for probe in arrived:
                CANARY_EVENTS.labels(probe, "arrived").inc()
            waiting -= arrived
        return waiting

    def _probes_with_canary(self) -> set[str]:
        with_canary = set()
        for probe in self._recorder.probes():
            if self._recorder.can_cause_canary(probe):
                with_canary.add(probe)
            elif probe not in self._without_canary:
                self._without_canary.add(probe)
                log.info(
                    "probe has no canary: only its programs and filters are checked", probe=probe
                )
        return with_canary

    def _update(self, problems: dict[str, str]) -> None:
        """Logs what has changed since the last check."""
        for name, problem in problems.items():
            log.error("plugin may not record", plugin=name, reason=problem)
        for name in self._problems.keys() - problems.keys():
            log.info("plugin records again", plugin=name)
        self._problems = problems
