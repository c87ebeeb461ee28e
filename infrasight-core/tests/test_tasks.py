"""Ending the operator's tasks."""

import asyncio

from infrasight_operator.operator import cancel_all


def test_cancel_all_ends_a_task_that_loses_its_first_cancellation() -> None:
    """A task that goes on after a cancellation is cancelled again, so that the operator ends."""

    async def run() -> asyncio.Task[None]:
        async def lose_one_cancellation() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

        task = asyncio.create_task(lose_one_cancellation())
        await asyncio.sleep(0)
        await cancel_all([task])
        return task

    assert asyncio.run(run()).cancelled()
