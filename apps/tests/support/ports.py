"""Ports for the processes that tests start."""

import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

# below the ports that Linux, macOS and Windows give to outgoing connections: between the choice of a port here and the
# moment when a process listens on it, no connection takes it
FIRST, BLOCK, BLOCKS = 20_000, 1000, 12


def _block() -> int:
    """Each worker of pytest-xdist has ports of its own."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % BLOCKS


@cache
def _ports() -> Iterator[int]:
    """The block's ports from a random one on; made at the first call, since workers are forks of one process."""
    start = random.randrange(BLOCK)
    return cycle([FIRST + _block() * BLOCK + (start + number) % BLOCK for number in range(BLOCK)])


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens, another one at each call."""
    for _ in range(BLOCK):
        port = next(_ports())
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free from {FIRST + _block() * BLOCK} on")
