"""Tasks that work in turns for ever: they end when they are told to, whatever swallows a cancellation."""

import asyncio

from apps.core.process import end_loop


async def test_a_loop_ends_where_its_work_swallows_a_cancellation() -> None:
    swallowed = 0

    async def work() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await end_loop(task)
    assert (swallowed, task.cancelled()) == (2, True)


async def test_one_that_has_ended_is_left_as_it_is() -> None:
    async def work() -> None:
        """Ends by itself."""

    task = asyncio.create_task(work())
    await task
    await end_loop(task)
    assert not task.cancelled()
