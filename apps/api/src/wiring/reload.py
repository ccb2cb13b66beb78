"""SIGHUP: the routing file and the file of agents are read again. Each all or nothing; the log says what came of it."""

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apps.agents.agents import Agents
from apps.agents.config import AgentsConfigError
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
