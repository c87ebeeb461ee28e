"""The accounts of a run add up to its rows, whatever the wall clock does."""

import os
import time
from collections import defaultdict

import infrasight_probe_sample.plugin as sample
import pytest
from infrasight.v1.stream_pb2 import Account
from infrasight_core.agent import recording as recording_module
from infrasight_core.agent.untraced import UntracedOperations
from infrasight_recording import Recording, recording

MINUTE = 60.0


class WallClock:
    """Stands for the module `time` where the recorder asks for the wall clock.

    Attributes:
        step: How far it is ahead of the real clock, in seconds.
    """

    step = 0.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.step

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """A wall clock that the test sets."""
    wall = WallClock()
    monkeypatch.setattr(recording_module, "time", wall)
    return wall


def rows_by_window(kept: Recording) -> dict[int, int]:
    """The rows of each window, by the batches' ids."""
    rows: dict[int, int] = defaultdict(int)
    for delivery in kept.deliveries:
        rows[int(delivery.batch_id.split("-")[1])] += delivery.batch.num_rows
    return dict(rows)


def last_accounts(kept: Recording) -> dict[int, Account]:
    """The account of each window that counts: the one with the highest number."""
    last: dict[int, Account] = {}
    for account in sorted(kept.accounts, key=lambda account: account.number):
        last[account.window] = account
    return last


def open_some(kept: Recording, count: int) -> None:
    """Opens files, and waits until they are delivered."""
    for number in range(count):
        try:
            os.close(os.open(f"/no/such/file/{number}", os.O_RDONLY))
        except FileNotFoundError:
            continue
    kept.wait("sample")


@pytest.mark.parametrize("back", [5.0, MINUTE, 60 * MINUTE])
def test_clock_that_goes_back_breaks_no_account(clock: WallClock, back: float) -> None:
    """Each window's account has the rows of its batches, and no window begins twice."""
    with recording("sample", sample) as kept:
        open_some(kept, 50)
        clock.step = 61.0  # into a later minute
        open_some(kept, 60)
        clock.step = 61.0 - back
        open_some(kept, 70)
        clock.step = 3 * MINUTE
        open_some(kept, 80)
    accounts = last_accounts(kept)
    rows = rows_by_window(kept)
    assert {window: accounts[window].read for window in rows} == rows
    assert sum(account.seen for account in accounts.values()) == kept.counts.seen
    windows = [int(delivery.batch_id.split("-")[1]) for delivery in kept.deliveries]
    assert windows == sorted(windows)
    kept.assert_accounted()


def test_accounts_of_untraced_operations_grow_within_a_window() -> None:
    """Every account counts from its window's beginning, however many are sent in between."""
    kept = Recording()
    untraced = UntracedOperations(kept)
    for number in range(4):
        untraced.count({"x32": 10 * number, "io_uring": 0}, 0, now=100.0 * (number + 1))
    in_first = [each.untraced for each in kept.accounts if each.window == kept.accounts[0].window]
    assert in_first == sorted(in_first)
    assert sum(account.untraced for account in last_accounts(kept).values()) == 30
