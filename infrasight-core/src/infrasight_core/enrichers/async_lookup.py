"""Slow lookups in background threads, with a bounded queue and a bounded cache.

A caller never waits unless it asks to. An answer that is not known yet is known at a later call.
"""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import structlog
from attrs import frozen
from prometheus_client import Counter

log = structlog.get_logger(__name__)
K = TypeVar("K")
LOOKUPS = Counter(
    "infrasight_lookups",
    "Lookups that an enricher made outside of the agent, by outcome: `found`, `absent` (there is "
    "no answer), `failed`, or `queue_full` (not made because too many were waiting).",
    ["enricher", "outcome"],
)


class LookupFailedError(Exception):
    """A lookup failed, so it is not known whether there is an answer. The message is why."""


@frozen
class LookupBounds:
    """The bounds of an `AsyncLookup`.

    Attributes:
        threads: The number of lookups at the same time.
        queue_size: The number of lookups that may wait for a thread. Further ones are counted, and
            made when they are asked for again.
        cache_size: The number of cached answers; the least recently used one is evicted.
        ttl_seconds: How long an answer is valid.
        absent_ttl_seconds: How long it is valid that there is no answer, or that a lookup failed.
    """

    threads: int = 1
    queue_size: int = 1024
    cache_size: int = 65536
    ttl_seconds: float = 600
    absent_ttl_seconds: float = 60


class AsyncLookup(Generic[K]):
    """A cache of answers that background threads fill.

    Args:
        enricher: The enricher's name, for metrics and logs.
        query: Returns the answer to a question, empty if there is none. It may block, and raises
            LookupFailedError.
        bounds: The bounds of threads, queue and cache.
    """

    def __init__(self, enricher: str, query: Callable[[K], bytes], bounds: LookupBounds) -> None:
        self._enricher = enricher
        self._query = query
        self._bounds = bounds
        # The answer by question, and the time until which it is valid; None if the lookup failed.
        self._answers: OrderedDict[K, tuple[float, bytes | None]] = OrderedDict()
        self._pending: set[K] = set()
        self._queue: queue.Queue[K | None] = queue.Queue(bounds.queue_size)
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._logged_reason = ""

    def get(self, questions: Iterable[K], wait_seconds: float = 0) -> dict[K, bytes | None]:
        """Returns the cached answers and starts the lookups of the others.

        An answer that is no longer valid is returned once more while it is looked up again.

        Args:
            questions: The questions.
            wait_seconds: How long to wait for answers that are not cached.

        Returns:
            The answer by question: empty if there is none, None if it is not known.
        """
        wanted = list(questions)
        with self._changed:
            for question in wanted:
                self._request(question)
            if wait_seconds:
                self._changed.wait_for(lambda: not self._pending & set(wanted), wait_seconds)
            answers: dict[K, bytes | None] = {}
            for question in wanted:
                if question in self._answers:
                    self._answers.move_to_end(question)
                    answers[question] = self._answers[question][1]
                else:
                    answers[question] = None
            return answers

    def close(self) -> None:
        """Starts no more lookups; a thread ends when its current lookup has ended."""
        with self._changed:
            self._closed = True
        while not self._queue.empty():
            self._discard_queued()
        for _ in self._threads:
            self._queue.put(None)

    def _discard_queued(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return  # a thread was faster

    def _request(self, question: K) -> None:
        valid_until, _ = self._answers.get(question, (0, None))
        if valid_until > time.monotonic() or question in self._pending or self._closed:
            return
        try:
            self._queue.put_nowait(question)
        except queue.Full:
            LOOKUPS.labels(self._enricher, "queue_full").inc()
            return
        self._pending.add(question)
        if len(self._threads) < min(self._bounds.threads, len(self._pending)):
            name = f"{self._enricher} {len(self._threads)}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (question := self._queue.get()) is not None:
            answer, outcome, reason = self._look_up(question)
            LOOKUPS.labels(self._enricher, outcome).inc()
            with self._changed:
                if reason and reason != self._logged_reason:  # once, not for every question
                    log.warning("lookup failed", enricher=self._enricher, reason=reason)
                self._logged_reason = reason
                ttl = self._bounds.ttl_seconds if answer else self._bounds.absent_ttl_seconds
                self._answers[question] = (time.monotonic() + ttl, answer)
                self._answers.move_to_end(question)
                while len(self._answers) > self._bounds.cache_size:
                    self._answers.popitem(last=False)
                self._pending.discard(question)
                self._changed.notify_all()

    def _look_up(self, question: K) -> tuple[bytes | None, str, str]:
        """Returns the answer, the outcome for the metric, and the reason of a failure."""
        try:
            answer = self._query(question)
        except LookupFailedError as error:
            return None, "failed", str(error)
        except Exception as error:  # noqa: BLE001 - a bug in a resolver must not end the thread
            return None, "failed", repr(error)
        return answer, "found" if answer else "absent", ""
