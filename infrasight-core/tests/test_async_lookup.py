"""Lookups in background threads: bounded queue, bounded cache, and failures that end nothing."""

import threading

from infrasight_core.enrichers.async_lookup import (
    LOOKUPS,
    AsyncLookup,
    LookupBounds,
    LookupFailedError,
)
from infrasight_testbed.system import until


def outcomes(enricher: str, outcome: str) -> float:
    """Returns how many lookups had an outcome, by the metric."""
    return float(LOOKUPS.labels(enricher, outcome)._value.get())


def test_queue_and_cache_are_bounded() -> None:
    """Of ten lookups one runs, two wait and seven are not made; two answers are cached."""
    started = threading.Event()
    may_answer = threading.Event()

    def query(question: int) -> bytes:
        started.set()
        may_answer.wait(60)
        return b"%d" % question

    lookup = AsyncLookup("bounds-test", query, LookupBounds(queue_size=2, cache_size=2))
    lookup.get([0])
    assert started.wait(60)
    assert set(lookup.get(range(10)).values()) == {None}
    assert outcomes("bounds-test", "queue_full") == 7
    may_answer.set()
    until(lambda: outcomes("bounds-test", "found") == 3, "three lookups have ended")
    until(lambda: list(lookup._answers) == [1, 2], "the newest two answers are cached")
    assert lookup.get([1], wait_seconds=60) == {1: b"1"}
    lookup.close()


def test_failed_and_absent_answers_are_distinguished() -> None:
    """No answer is empty, a failure is None; both are counted and neither ends the thread."""

    def query(question: str) -> bytes:
        if question == "fails":
            raise LookupFailedError("timeout")
        if question == "breaks":
            raise ValueError("a bug")
        return question.encode()

    lookup = AsyncLookup("outcome-test", query, LookupBounds())
    answers = lookup.get(["fails", "breaks", "", "name"], wait_seconds=60)
    assert answers == {"fails": None, "breaks": None, "": b"", "name": b"name"}
    counted = [outcomes("outcome-test", outcome) for outcome in ("failed", "absent", "found")]
    assert counted == [2, 1, 1]
    lookup.close()


def test_closed_lookup_leaves_no_thread() -> None:
    """The threads end after their current lookups; new questions stay unanswered."""
    bounds = LookupBounds(threads=2)
    lookup: AsyncLookup[int] = AsyncLookup("close-test", lambda question: b"x", bounds)
    assert lookup.get([1, 2], wait_seconds=60) == {1: b"x", 2: b"x"}
    lookup.close()
    for thread in lookup._threads:
        thread.join(60)
        assert not thread.is_alive()
    assert lookup.get([3]) == {3: None}
