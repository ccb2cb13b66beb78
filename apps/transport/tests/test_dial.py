"""Several addresses of one name: none that hangs or refuses stands in the way of one that answers."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from apps.tests.support.waiting import Passed
from apps.transport.dialing import Info, first_connected


def at(listener: socket.socket) -> Info:
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname()


@pytest.fixture
def answering() -> Iterator[Info]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield at(listener)


@pytest.fixture
def refusing() -> Info:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return at(listener)


@pytest.fixture
def hanging() -> Iterator[Info]:
    """Its queue is full, and nobody takes anything out of it."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield at(full)


async def test_one_that_hangs_costs_its_head_start(hanging: Info, answering: Info) -> None:
    head_start = Passed(0.2)
    with closing(await first_connected([hanging, answering])) as connected:
        assert connected.getpeername() == answering[4]
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert head_start


async def test_one_that_refuses_costs_nothing(refusing: Info, answering: Info) -> None:
    while True:
        head_start = Passed(0.2)
        with closing(await first_connected([refusing, answering])) as connected:
            assert connected.getpeername() == answering[4]
        if not head_start:  # which a machine that is busy manages now and then
            break


async def test_the_first_wins_where_all_answer(answering: Info, hanging: Info) -> None:
    with closing(await first_connected([answering, hanging])) as connected:
        assert connected.getpeername() == answering[4]


async def test_all_of_them_refuse(refusing: Info) -> None:
    with pytest.raises(ConnectionRefusedError):
        await first_connected([refusing, refusing, refusing])


async def test_cancelled_it_leaves_no_socket(hanging: Info, answering: Info) -> None:
    """A socket that is left to the collector would be a ResourceWarning, which fails a test here."""
    for turns in range(12):
        task = asyncio.create_task(first_connected([hanging, answering] if turns % 2 else [answering, hanging]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        for outcome in await asyncio.gather(task, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()
        await asyncio.sleep(0.01)
