"""The server: uvicorn, with the protocol that has limits before the first handler.

python -m apps.api.src.main
Imported by what serves, never with the app.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import Config

from apps.api.src.http.connections import greeting, listen_unix, listener_of, raise_descriptor_limit
from apps.api.src.http.peers import Peers
from apps.api.src.http.protocol import Protocol
from apps.core.settings import Settings

LAST_SECONDS = 3
DATE_SECONDS = 1.0


def serve(app: Any, settings: Settings) -> None:
    """Run the app at the settings' address, with a shutdown that is over a little after the grace period."""
    # bound before the app starts, so that no model is loaded for a port that is taken
    listener = listener_of(settings)
    raise_descriptor_limit()
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace) + LAST_SECONDS,
    )
    # of several workers, the first speaks for all
    speaks = not settings.api_peers or settings.api_peers.startswith("0@")
    if speaks and sys.stderr is not None and sys.stderr.isatty():
        print(greeting(settings, listener), file=sys.stderr)
    sockets = [listener]
    if (peers := Peers.of(settings.api_peers, settings.api_workers)) is not None:
        sockets.append(listen_unix(peers.socket(peers.own)))
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=sockets)
    for one in sockets:
        one.close()


class Server(uvicorn.Server):
    """uvicorn's looks ten times a second whether it is to end, which is most of what an idle process does.

    This one is told, and awake once a second for the Date of its answers.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._wake: Callable[[], object] = lambda: None

    async def main_loop(self) -> None:
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(ending.set)
        # each tenth tick writes the Date anew
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await ending.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._wake()
