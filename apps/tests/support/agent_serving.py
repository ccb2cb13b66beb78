"""Serves agents over a real socket: declared in Python, on a scripted model, with a database of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from apps.agents.config import AgentConfig, AgentsConfig, LimitsConfig, ToolConfig
from apps.agents.tools import AgentTool
from apps.api.src.application import create_app
from apps.api.src.wiring.agents import open_agents
from apps.api.src.wiring.gateway import build_cloud, load_gateway, new_gateway
from apps.api.src.wiring.services import on_record
from apps.api.src.wiring.stores import Documents, build_database
from apps.core.calls import Bookkeeper, CallRecord
from apps.core.ports import ChatModel
from apps.gateway.gateway import Gateway
from apps.models.event_stream import EventStreamDecoder
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving, settings


def agent(*tools: str, approval: Sequence[str] = (), **more: Any) -> AgentConfig:
    """An agent on the local model."""
    named = tuple(ToolConfig(tool=tool, approval=tool in approval) for tool in tools)
    return AgentConfig(model="local", tools=named, **more)


def limits(**values: float) -> LimitsConfig:
    return LimitsConfig.model_validate(values)


class Book:
    """Implements Bookkeeper: remembers every record that was closed."""

    def __init__(self) -> None:
        self.closed: list[CallRecord] = []

    async def opening(self, call: CallRecord) -> None:
        """Lets everything pass."""

    def closing(self, call: CallRecord) -> None:
        self.closed.append(call)


def build(
    declared: AgentsConfig | None,
    model: ChatModel,
    tools: Sequence[AgentTool] = (),
    books: Sequence[Bookkeeper] = (),
    documents: Callable[[Gateway], Documents] | None = None,
    **changes: Any,
) -> FastAPI:
    """The app; everything but the models is production's own."""
    configured = settings(**changes)
    database = build_database(configured)
    gateway = new_gateway(configured)
    written = documents(gateway) if documents is not None else None
    library = written.library if written is not None else None
    parts = open_agents(configured, gateway, model, library, database, lambda name: "", declared, tools)
    load_gateway(gateway, configured, model, documents=written, agents=parts)
    cloud = build_cloud(configured, gateway) if configured.gateway_config else ScriptedModel(saying("from the cloud"))
    services = on_record(
        configured, cloud, model, gateway, database=database, documents=written, agents=parts.agents, bookkeepers=books
    )
    return create_app(configured, services)


@contextmanager
def serving_agents(
    agents: dict[str, AgentConfig],
    model: ChatModel,
    *tools: AgentTool,
    books: Sequence[Bookkeeper] = (),
    **changes: Any,
) -> Iterator[str]:
    """The base URL."""
    with serving(build(AgentsConfig(agents=agents), model, tools, books, **changes)) as url:
        yield url


@dataclass(slots=True)
class RunStream:
    """The events of a run, in their order: kind and data."""

    events: list[tuple[str, bytes]]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    @property
    def text(self) -> str:
        return "".join(data.decode() for kind, data in self.events if kind == "message")


def read_run(data: bytes) -> RunStream:
    """Checks that there is exactly one terminal event, and that it is the last."""
    events = [(event.type, event.data) for event in EventStreamDecoder().feed(data)]
    terminal = [kind for kind, _ in events if kind in ("done", "error")]
    assert len(terminal) == 1, events
    assert events[-1][0] == terminal[0]
    return RunStream(events)
