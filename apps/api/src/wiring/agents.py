"""What agents need: their tools, their models, where their runs are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from apps.agents.agents import AgentModel, Agents
from apps.agents.builtin_tools import calculator, clock, search_tool
from apps.agents.config import AgentsConfig, load_agents_config
from apps.agents.fetch import Fetcher
from apps.agents.roster import Lookup, McpServers, Roster
from apps.agents.tools import AgentTool, Redaction, function_tool
from apps.core.agent_runs import MemoryRuns, RunStore
from apps.core.callers import SHARED, Caller
from apps.core.ports import ChatModel
from apps.core.settings import Settings
from apps.gateway.gateway import Gateway, GatewayModel
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.protocol import WireTarget
from apps.gateway.upstream.http_target import ByPath
from apps.operations.agent_runs import AgentRuns
from apps.operations.database import Database
from apps.rag.answering import Place
from apps.rag.library import Library


@dataclass(frozen=True, slots=True)
class AgentParts:
    """The agents, and themselves as a model."""

    agents: Agents
    model: AgentModel

    def wire(self) -> WireTarget:
        """The agents on the one path of OpenAI's API that they serve."""
        return ByPath({"/chat/completions": LocalWire(self.model, asks_others=True)})


TOOLS = ("calculator", "clock", "fetch", "search")


def open_agents(
    settings: Settings,
    gateway: Gateway,
    local: ChatModel,
    library: Library | None,
    database: Database | None,
    secret: Lookup,
    declared: AgentsConfig | None = None,
    more: Sequence[AgentTool] = (),
) -> AgentParts:
    """The agents of AGENTS_CONFIG, or those that are ``declared`` in Python, with ``more`` tools of one's own.

    Raises AgentsConfigError where the file is wrong; a reload reads it anew. ``secret`` reads the variables that it
    names.
    """
    own = {
        "calculator": function_tool(calculator),
        "clock": function_tool(clock),
        "search": search_tool(LibraryDocuments(library)),
        **{tool.name: tool for tool in more},
    }

    def read(before: Roster | None) -> Roster:
        config = declared or _config(settings, [*TOOLS, *own])
        servers = McpServers(config.mcp_servers, secret, before.servers if before is not None else None)
        known = [settings.openai_api_key.get_secret_value(), *(secret(name) for name in _variables(config))]
        return Roster(config, {"fetch": Fetcher(config.fetch).tool(), **own}, servers, Redaction(known))

    store: RunStore = AgentRuns(database) if database is not None else MemoryRuns()
    chat = GatewayModel(gateway, settings.default_model, local)
    has_file = declared is None and settings.agents_config is not None
    agents = Agents(read(None), chat, store, chat.highest_price, read if has_file else None)
    return AgentParts(agents, AgentModel(agents))


def _config(settings: Settings, tools: Sequence[str]) -> AgentsConfig:
    if settings.agents_config is None:
        return AgentsConfig.model_construct()
    return load_agents_config(settings.agents_config, tools)


def _variables(config: AgentsConfig) -> Iterator[str]:
    for server in config.mcp_servers.values():
        yield from server.env
        yield from server.headers_env.values()


class LibraryDocuments:
    """The library as the tool `search` asks it: what the caller's key reaches, by the names that callers use."""

    def __init__(self, library: Library | None) -> None:
        self._library = library

    async def collections(self, caller: Caller) -> list[str]:
        if self._library is None:
            return []
        places = [Place(one.name) for one in await self._library.collections(caller.tenant)]
        if caller.tenant != SHARED:
            places += [Place(one.name, shared=True) for one in await self._library.collections(SHARED)]
        return [_named(place) for place in places if _reaches(caller, place)]

    async def search(self, caller: Caller, collection: str, query: str, top_k: int) -> list[dict[str, Any]]:
        if self._library is None:
            return []
        shared = collection.startswith(f"{SHARED}/")
        place = Place(collection.removeprefix(f"{SHARED}/"), shared)
        found = await self._library.search(place.tenant(caller), place.collection, query, top_k=top_k)
        return [
            {
                "collection": collection,
                "document": passage.name,
                "page": passage.page,
                "text": passage.text,
                "score": round(passage.score, 4),
            }
            for passage in found
        ]


def _named(place: Place) -> str:
    return f"{SHARED}/{place.collection}" if place.shared else place.collection


def _reaches(caller: Caller, place: Place) -> bool:
    """As a search by HTTP would be let through."""
    base = "/rag/shared" if place.shared else "/rag/collections"
    return caller.may_use(place.model) and caller.may_call(f"{base}/{place.collection}/query")
