"""Slots are given in order; a peer has a few of them, and a bounded number of calls waits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from infrasight_core.errors import LimitError
from infrasight_server.query.query_slots import QuerySlots, SlotLimits

LIMITS = SlotLimits(running=3, running_per_peer=2, waiting=3, calls_per_peer=2)


def run(scenario: Callable[[QuerySlots], Awaitable[None]]) -> None:
    """Runs a scenario with new slots."""

    async def start() -> None:
        await scenario(QuerySlots(LIMITS))

    asyncio.run(start())


async def waiting(slots: QuerySlots, peer: str) -> asyncio.Task[None]:
    """Starts a call that has to wait for its slot."""
    task = asyncio.create_task(slots.acquire(peer))
    await asyncio.sleep(0)
    assert not task.done()
    return task


def test_peer_with_all_its_slots_does_not_delay_another() -> None:
    """Its third call waits; another peer's call, which comes later, does not."""

    async def scenario(slots: QuerySlots) -> None:
        await slots.acquire("a")
        await slots.acquire("a")
        third = await waiting(slots, "a")
        await slots.acquire("b")
        slots.release("a")
        await third

    run(scenario)


def test_slots_are_given_in_the_order_of_the_calls() -> None:
    """With all slots taken, the first call that waits and may run gets the next one."""

    async def scenario(slots: QuerySlots) -> None:
        for peer in ("a", "a", "b"):
            await slots.acquire(peer)
        of_a = await waiting(slots, "a")
        of_c = await waiting(slots, "c")
        of_b = await waiting(slots, "b")
        slots.release("b")
        await of_c
        assert not of_a.done()
        slots.release("a")
        await of_a
        slots.release("c")
        await of_b

    run(scenario)


def test_calls_that_wait_are_bounded() -> None:
    """Beyond the bound, a call is rejected at once."""

    async def scenario(slots: QuerySlots) -> None:
        for peer in ("a", "a", "b"):
            await slots.acquire(peer)
        tasks = [await waiting(slots, peer) for peer in ("a", "b", "c")]
        with pytest.raises(LimitError, match="3 queries are already waiting"):
            await slots.acquire("d")
        for task in tasks:
            task.cancel()

    run(scenario)


def test_open_calls_of_a_peer_are_bounded() -> None:
    """Another peer may open one; the end of one makes room."""

    async def scenario(slots: QuerySlots) -> None:
        with slots.open_call("a"):
            with (
                slots.open_call("a"),
                slots.open_call("b"),
                pytest.raises(LimitError, match="a has 2 open queries already"),
            ):
                slots.open_call("a").__enter__()
            with slots.open_call("a"):
                await slots.acquire("a")

    run(scenario)


def test_cancelled_call_gives_its_place_and_its_slot_back() -> None:
    """A call that is cancelled while it waits, or when it has just been given a slot, has none."""

    async def scenario(slots: QuerySlots) -> None:
        for peer in ("a", "a", "b"):
            await slots.acquire(peer)
        first = await waiting(slots, "c")
        second = await waiting(slots, "d")
        third = await waiting(slots, "e")
        first.cancel()
        await asyncio.sleep(0)
        slots.release("b")  # to the second one, which is cancelled before it runs
        second.cancel()
        await third
        assert second.cancelled()
        fourth = await waiting(slots, "c")
        fifth = await waiting(slots, "d")
        fourth.cancel()
        slots.release("e")  # to the fifth one, although the fourth has not noticed its end
        await fifth

    run(scenario)
