import asyncio
import random
from contextlib import suppress

import pytest

from apps.core.errors import Overloaded
from apps.models.admission import Admission


async def hold(admission: Admission, gate: asyncio.Event, order: list[int] | None = None, name: int = 0) -> None:
    async with admission.slot():
        if order is not None:
            order.append(name)
        await gate.wait()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_no_more_than_the_slots_run_and_the_rest_waits() -> None:
    admission, gate = Admission(2, 10, 5), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, gate)) for _ in range(5)]
    await turns()
    assert (admission.running, admission.waiting) == (2, 3)
    gate.set()
    await asyncio.gather(*tasks)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_waiters_are_served_in_the_order_they_came() -> None:
    admission, order = Admission(1, 10, 5), list[int]()
    gates = [asyncio.Event() for _ in range(6)]
    tasks = []
    for name, gate in enumerate(gates):
        tasks.append(asyncio.create_task(hold(admission, gate, order, name)))
        await turns()
    for gate in gates:
        gate.set()
        await turns()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4, 5]


async def test_a_newcomer_never_overtakes_a_waiter() -> None:
    admission, order = Admission(1, 10, 5), list[int]()
    first, rest = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(admission, first))
    await turns()
    waiter = asyncio.create_task(hold(admission, rest, order, 1))
    await turns()
    first.set()
    newcomer = asyncio.create_task(hold(admission, rest, order, 2))
    await turns()
    rest.set()
    await asyncio.gather(holder, waiter, newcomer)
    assert order == [1, 2]


async def test_over_the_queue_the_call_is_turned_away_at_once_with_a_retry_after() -> None:
    admission, gate = Admission(1, 1, 5), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, gate)) for _ in range(2)]
    await turns()
    with pytest.raises(Overloaded) as refused:
        async with asyncio.timeout(0.5), admission.slot():
            pass
    assert refused.value.status == 503
    assert refused.value.retry_after is not None and refused.value.retry_after >= 1
    with pytest.raises(Overloaded):
        admission.check()
    gate.set()
    await asyncio.gather(*tasks)
    admission.check()


async def test_without_a_queue_the_slots_are_all_there_is() -> None:
    admission, gate = Admission(1, 0, 5), asyncio.Event()
    task = asyncio.create_task(hold(admission, gate))
    await turns()
    with pytest.raises(Overloaded):
        await hold(admission, gate)
    gate.set()
    await task
    await hold(admission, gate)


async def test_a_waiter_past_the_timeout_is_turned_away_and_leaves_no_trace() -> None:
    admission, gate = Admission(1, 5, 0.05), asyncio.Event()
    task = asyncio.create_task(hold(admission, gate))
    await turns()
    with pytest.raises(Overloaded) as refused:
        await hold(admission, gate)
    assert refused.value.retry_after is not None
    assert (admission.running, admission.waiting) == (1, 0)
    gate.set()
    await task
    assert admission.running == 0


async def test_a_cancelled_waiter_leaves_no_trace() -> None:
    admission, gate = Admission(1, 5, 5), asyncio.Event()
    holder = asyncio.create_task(hold(admission, gate))
    await turns()
    waiters = [asyncio.create_task(hold(admission, gate)) for _ in range(3)]
    await turns()
    waiters[1].cancel()
    await turns()
    assert admission.waiting == 2
    gate.set()
    await asyncio.gather(holder, waiters[0], waiters[2])
    assert (admission.running, admission.waiting) == (0, 0)


@pytest.mark.parametrize("turns_before_cancel", range(6))
async def test_a_slot_handed_to_a_waiter_that_is_cancelled_in_the_same_moment_goes_to_the_next(
    turns_before_cancel: int,
) -> None:
    admission, first, rest = Admission(1, 5, 5), asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(admission, first))
    await turns()
    doomed = asyncio.create_task(hold(admission, rest))
    await turns()
    heir = asyncio.create_task(hold(admission, rest))
    await turns()
    first.set()
    await turns(turns_before_cancel)
    doomed.cancel()
    with suppress(asyncio.CancelledError):
        await doomed
    await turns()
    assert (admission.running, admission.waiting) == (1, 0)
    rest.set()
    await asyncio.gather(holder, heir)
    assert admission.running == 0


async def test_a_call_that_fails_gives_its_slot_back() -> None:
    admission = Admission(1, 0, 5)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            async with admission.slot():
                raise ValueError("broken")
    assert admission.running == 0


async def test_retry_after_follows_the_measured_durations_and_the_length_of_the_queue() -> None:
    admission, gate = Admission(2, 20, 30), asyncio.Event()
    for _ in range(3):
        async with admission.slot():
            await asyncio.sleep(0.5)
    assert admission.retry_after() == 1
    tasks = [asyncio.create_task(hold(admission, gate)) for _ in range(2 + 15)]
    await turns()
    # 15 wait and one more would: 16 / 2 slots x 0.5 s
    assert 4 <= admission.retry_after() <= 5
    gate.set()
    await asyncio.gather(*tasks)


async def test_no_slot_is_lost_or_made_in_a_storm_of_calls_cancels_and_timeouts() -> None:
    rng = random.Random(7)
    admission = Admission(3, 8, 0.01)
    outcomes = {"served": 0, "refused": 0, "cancelled": 0}

    async def call() -> None:
        try:
            async with admission.slot():
                assert admission.running <= 3
                assert admission.waiting <= 8
                await asyncio.sleep(rng.random() * 0.008)
            outcomes["served"] += 1
        except Overloaded:
            outcomes["refused"] += 1
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
            raise

    for _ in range(150):
        tasks = [asyncio.create_task(call()) for _ in range(rng.randint(1, 14))]
        await asyncio.sleep(rng.random() * 0.012)
        for task in tasks:
            if rng.random() < 0.4:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.running, admission.waiting) == (0, 0)
    assert all(outcomes.values()), outcomes


async def test_other_bounds_let_those_in_who_wait_and_turn_nobody_out() -> None:
    admission, gate = Admission(1, 5, 60), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, gate)) for _ in range(4)]
    await asyncio.sleep(0)
    admission.bound(3, 0, 60)
    assert (admission.running, admission.waiting) == (3, 1)
    admission.bound(1, 0, 60)
    assert (admission.running, admission.waiting) == (3, 1)
    gate.set()
    await asyncio.gather(*tasks)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_who_joins_a_call_that_was_let_in_is_not_refused_by_a_full_queue() -> None:
    admission, gate = Admission(1, 0, 60), asyncio.Event()
    task = asyncio.create_task(hold(admission, gate))
    await asyncio.sleep(0)
    joining = asyncio.create_task(admission.enter(joins=True))
    await asyncio.sleep(0)
    assert (admission.running, admission.waiting) == (1, 1)
    gate.set()
    admission.leave(await joining)
    await task
