"""A connected socket for a name: its addresses are tried a quarter of a second apart, and the first that answers wins.

asyncio can do that by itself, but loses a socket when it is cancelled at the wrong moment, and uvloop cannot.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

HEAD_START = 0.25
# family, type, protocol, canonical name, address
Info = tuple[Any, Any, int, str, Any]


async def dial(host: str, port: int) -> socket.socket:
    """Raises OSError where no address of the name can be reached."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await (connect(infos[0]) if len(infos) == 1 else first_connected(infos))


async def first_connected(infos: Sequence[Info]) -> socket.socket:
    """The others are closed, whatever happens."""
    running: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    failure: BaseException = OSError("The name has no address")
    left = list(reversed(infos))
    try:
        while left or running:
            if left:
                running.add(asyncio.create_task(connect(left.pop())))
            done, _ = await asyncio.wait(
                running, timeout=HEAD_START if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (error := task.exception()) is None:
                    winner = task
                    return task.result()
                failure = error
                running.discard(task)
        raise failure
    finally:
        for task in running:
            if task is not winner:
                task.add_done_callback(_close)
                task.cancel()


async def connect(info: Info) -> socket.socket:
    family, kind, protocol, _, address = info
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _close(task: "asyncio.Task[socket.socket]") -> None:
    """It was not needed; it may have come about before it heard of that."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
