"""Questions whose answer may take long, asked beside the data: bounded threads, a bounded queue, a bounded memory of answers.

Whoever asks never waits: what is not known yet is known the next time.
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
ANSWERS = Counter(
    "infrasight_lookups",
    "Questions that an enricher asked outside, by what became of them.",
    ["of", "outcome"],
)


class NoAnswer(Exception):  # noqa: N818 - it is no error of ours
    """Who was asked could not say; the message is why."""


@frozen
class Bounds:
    """How much may be asked and kept.

    Attributes:
        threads: How many questions are asked at once.
        waiting: How many may wait for a thread; further ones are counted and asked when they come again.
        kept: How many answers are remembered; the one that was asked for longest ago goes.
        seconds: How long an answer holds.
        absent_seconds: How long it holds that there is none, or that nobody could say.
    """

    threads: int = 1
    waiting: int = 1024
    kept: int = 65536
    seconds: float = 600
    absent_seconds: float = 60


class AsyncLookup(Generic[K]):
    """Answers by question.

    Args:
        name: Whose questions, for the counter.
        ask: Blocks; the answer, empty where there is none. Raises NoAnswer.
        bounds: How much.
    """

    def __init__(self, name: str, ask: Callable[[K], bytes], bounds: Bounds) -> None:
        self._name, self._ask, self._bounds = name, ask, bounds
        self._answers: OrderedDict[K, tuple[float, bytes | None]] = (
            OrderedDict()
        )  # until when each holds
        self._asked: set[K] = set()
        self._queue: queue.Queue[K | None] = queue.Queue(bounds.waiting)
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._said = ""

    def get(self, questions: Iterable[K], moment: float = 0) -> dict[K, bytes | None]:
        """What is known: the answer, empty where there is none, None where it is not known (yet).

        An answer whose time is over is given once more, and asked for anew.

        Args:
            questions: Any number.
            moment: Seconds to wait for those that are not known.
        """
        wanted = list(questions)
        with self._changed:
            for question in wanted:
                self._want(question)
            if moment:
                self._changed.wait_for(lambda: not self._asked & set(wanted), moment)
            found = {}
            for question in wanted:
                if question in self._answers:
                    self._answers.move_to_end(question)
                found[question] = self._answers.get(question, (0, None))[1]
            return found

    def close(self) -> None:
        """Asks nothing more; a thread that is asking ends when it has its answer."""
        with self._changed:
            self._closed = True
        while not self._queue.empty():
            self._drop()
        for _ in self._threads:
            self._queue.put(None)

    def _drop(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return  # a thread was faster

    def _want(self, question: K) -> None:
        until, _ = self._answers.get(question, (0, None))
        if until > time.monotonic() or question in self._asked or self._closed:
            return
        try:
            self._queue.put_nowait(question)
        except queue.Full:
            ANSWERS.labels(self._name, "queue_full").inc()
            return
        self._asked.add(question)
        if len(self._threads) < min(self._bounds.threads, len(self._asked)):
            thread = threading.Thread(
                target=self._run, name=f"{self._name} {len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (question := self._queue.get()) is not None:
            answer, outcome, reason = self._answer(question)
            ANSWERS.labels(self._name, outcome).inc()
            with self._changed:
                if reason and reason != self._said:  # once, not per question
                    log.warning("no answer", of=self._name, reason=reason)
                self._said = reason
                holds = self._bounds.seconds if answer else self._bounds.absent_seconds
                self._answers[question] = (time.monotonic() + holds, answer)
                self._answers.move_to_end(question)
                while len(self._answers) > self._bounds.kept:
                    self._answers.popitem(last=False)
                self._asked.discard(question)
                self._changed.notify_all()

    def _answer(self, question: K) -> tuple[bytes | None, str, str]:
        try:
            answer = self._ask(question)
        except NoAnswer as error:
            return None, "failed", str(error)
        except Exception as error:  # noqa: BLE001 - a resolver's bug must not end the thread that every later question needs
            return None, "failed", repr(error)
        return answer, "found" if answer else "absent", ""
