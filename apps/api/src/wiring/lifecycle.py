"""What must be there before the service starts, and what SIGHUP has read again.

Each check is made without an event loop, since a server may run one. The routing file and the file of agents are read
again, each all or nothing; the log says what came of it.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apps.agents.agents import Agents
from apps.agents.config import AgentsConfigError
from apps.api.src.wiring.stores import build_database, build_key_store
from apps.core.errors import StoreUnavailable
from apps.core.settings import Settings
from apps.gateway.gateway import Gateway
from apps.gateway.routing.config import GatewayConfigError

log = logging.getLogger(__name__)


@contextmanager
def reloading(gateway: Gateway, agents: Agents | None = None) -> Iterator[None]:
    """Reload on SIGHUP for the length of the block; where there is no such signal (Windows), do nothing."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload, gateway, agents)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def reload(gateway: Gateway, agents: Agents | None = None) -> None:
    """Take each file as it is now, or keep the one at work and report every fault."""
    _reload_routes(gateway)
    if agents is not None:
        _reload_agents(agents)


def _reload_routes(gateway: Gateway) -> None:
    try:
        gateway.reload()
    except GatewayConfigError as error:
        for fault in str(error).splitlines():
            log.error("The routing file was not reloaded: %s", fault)
        return
    router = gateway.router
    log.info("The routing file is in force: %d providers, %d model names", len(router.providers), len(router.names()))


def _reload_agents(agents: Agents) -> None:
    try:
        reloaded = agents.reload()
    except AgentsConfigError as error:
        for fault in str(error).splitlines():
            log.error("The file of agents was not reloaded: %s", fault)
        return
    if reloaded:
        config = agents.roster.config
        log.info(
            "The file of agents is in force: %d agents, %d MCP servers", len(config.agents), len(config.mcp_servers)
        )


DATABASE_SECONDS = 3.0


def unwritable(settings: Settings) -> str | None:
    """One line where what is kept has no place in DATA_DIR; nothing is made yet."""
    if settings.database_url.get_secret_value() and settings.secret_key.get_secret_value():
        return None
    nearest = settings.data_dir.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return None
    return "Wrong setting DATA_DIR: must be a folder that can be written to"


def no_key_exists(settings: Settings) -> bool:
    """Where the database does not answer, that is not known, and False: the service then admits no request."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(_is_empty(settings))))
    thread.start()
    thread.join()
    return answers == [True]


async def _is_empty(settings: Settings) -> bool:
    database = build_database(settings)
    await database.start()
    try:
        if not await database.ready(DATABASE_SECONDS):
            return False
        return not (await build_key_store(settings, database).state()).exist
    except StoreUnavailable:
        return False
    finally:
        await database.aclose()
