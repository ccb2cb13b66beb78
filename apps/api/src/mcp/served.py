"""What MCP clients can call and read here.

They call the routes of the API as tools, behind the same scopes, limits and meter. They read the collections that the
caller's key reaches, and their documents as text.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apps.agents.config import AGENT_PREFIX
from apps.agents.mcp_port import Progress, ReadResource, Scope, ServedPrompt, ServedResource, ServedTool, ToolAnswer
from apps.agents.tools import Arguments
from apps.api.src.agents.answers import metered_events, new_record, run_json, run_usage
from apps.api.src.auth.authentication import allow_local, allow_named, caller_of
from apps.api.src.generate import GenerateBody, cloud_body, local_body
from apps.api.src.http.request import as_app_error
from apps.api.src.http.streaming import usage_json
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.agents import LibraryDocuments
from apps.api.src.wiring.services import Services
from apps.cache.front import CachedModel
from apps.core.callers import SHARED, Caller
from apps.core.deltas import Delta, collect
from apps.core.errors import InvalidValue, NotFound, quoted
from apps.core.fields import Between, Schema
from apps.core.messages import user_message
from apps.core.settings import Settings
from apps.models.metering import MeteredModel
from apps.rag.answering import Place
from apps.rag.library import Library

ROUTE = "/mcp"
MOST_PASSAGES = 20
# pieces of an answer between two reports of progress
REPORT_EVERY = 16


Ask = Callable[[Request, GenerateBody, Progress], Awaitable[ToolAnswer]]


class AgentBody(Schema):
    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: Annotated[str, Field(min_length=1, max_length=100_000, description="What to answer")]


class SearchBody(Schema):
    model_config = ConfigDict(strict=True, extra="ignore")

    collection: str = Field(description="The collection; `shared/<name>` for one that everybody shares")
    query: str = Field(min_length=1, max_length=1000, description="What to look for, in plain words")
    top_k: Annotated[int, Between(1, MOST_PASSAGES)] = Field(5, description="The most passages to find")


@dataclass(frozen=True, slots=True)
class ServedTools:
    """All of them; `for_caller` is what one key reaches."""

    services: Services
    settings: Settings
    limits: RateLimits

    def for_caller(self, caller: Caller) -> Sequence[ServedTool]:
        settings = self.settings
        tools = []
        if caller.may_call("/generate"):
            tools.append(self._generate("generate", "Ask the cloud model", cloud_body(settings), self._cloud))
        if caller.may_call("/local/generate"):
            tools.append(
                self._generate("local_generate", "Ask the model on this machine", local_body(settings), self._local)
            )
        if self.services.documents is not None and caller.may_call("/rag/collections"):
            description = "Find passages in a collection of documents"
            tools.append(ServedTool("rag_search", description, _schema(SearchBody), self._search))
        agents = self.services.agents
        for name in agents.names() if agents is not None else ():
            if caller.may_use(AGENT_PREFIX + name) and caller.may_call(f"/agents/{name}/run"):
                tools.append(self._agent(name))
        return tools

    def _generate(self, name: str, description: str, body: type[GenerateBody], ask: Ask) -> ServedTool:
        async def call(scope: Scope, arguments: Arguments, progress: Progress) -> ToolAnswer:
            return await ask(Request(scope), _checked(body, arguments), progress)

        return ServedTool(name, description, _schema(body), call)

    async def _cloud(self, request: Request, body: GenerateBody, progress: Progress) -> ToolAnswer:
        await self.limits.count(request, "generate", self.settings.rate_limit_generate)
        is_local = self.services.gateway.router.is_local
        allow_named(caller_of(request), body.model, self.settings.default_model, is_local)
        return await self._answer(request, self.services.generate, body, progress)

    async def _local(self, request: Request, body: GenerateBody, progress: Progress) -> ToolAnswer:
        await self.limits.count(request, "local", self.settings.rate_limit_local)
        name = self.services.local.readiness().name
        allow_local(caller_of(request), name)
        if body.model not in (None, name):
            raise NotFound(f"The local model is {name}", field="model", details={"available": [name]})
        return await self._answer(request, self.services.generate_locally, body, progress)

    async def _answer(
        self, request: Request, model: MeteredModel | CachedModel, body: GenerateBody, progress: Progress
    ) -> ToolAnswer:
        """What the route of the same model answers, on record under this one."""
        chat = body.to_chat(caller_of(request))
        async with aclosing(model.stream(replace(chat, record=model.new_record(chat, ROUTE)))) as deltas:
            whole = await collect(_reported(deltas, progress))
        structured = {"response": whole.text, "model": whole.model, "usage": usage_json(whole.usage)}
        return ToolAnswer(whole.text, structured | {"finish_reason": whole.finish_reason})

    async def _search(self, scope: Scope, arguments: Arguments, progress: Progress) -> ToolAnswer:
        request, body = Request(scope), _checked(SearchBody, arguments)
        await self.limits.count(request, "rag", self.settings.rate_limit_rag)
        documents = LibraryDocuments(self.services.documents.library if self.services.documents else None)
        caller = caller_of(request)
        theirs = await documents.collections(caller)
        if body.collection not in theirs:
            raise NotFound(f"No collection is named {quoted(body.collection)}", details={"available": theirs})
        passages = await documents.search(caller, body.collection, body.query, body.top_k)
        text = "\n\n".join(f"[{passage['document']}] {passage['text']}" for passage in passages)
        return ToolAnswer(text or "Nothing was found", {"passages": passages})

    def _agent(self, name: str) -> ServedTool:
        agents = self.services.agents
        assert agents is not None  # noqa: S101 - asked only for names that they gave
        card = agents.card(name)

        async def call(scope: Scope, arguments: Arguments, progress: Progress) -> ToolAnswer:
            request, body = Request(scope), _checked(AgentBody, arguments)
            await self.limits.count(request, "agents", self.settings.rate_limit_agents)
            caller = caller_of(request)
            session = agents.begin(name, caller, user_message(body.prompt))
            record = new_record(agents, session, caller, ROUTE, len(body.prompt), streamed=False)
            async with aclosing(metered_events(session, self.services.meter, record)) as events:
                steps = 0
                async for _ in events:
                    steps += 1
                    if steps % REPORT_EVERY == 1:
                        await progress(steps, "The agent is at work")
            run = session.run
            if run.status == "paused":
                text = (
                    f"The run {run.id} waits for an approval: POST /agents/runs/{run.id}/approve, /deny or /decisions"
                )
                return ToolAnswer(text, run_json(run))
            return ToolAnswer(run.answer, {"answer": run.answer, "run": run.id, "usage": run_usage(run)})

        described = card.config.description or f"Ask the agent {name}"
        return ServedTool(f"agent_{name}".replace("-", "_")[:64], described, _schema(AgentBody), call)


async def _reported(deltas: AsyncGenerator[Delta, None], progress: Progress) -> AsyncGenerator[Delta, None]:
    """The deltas, with a word to the client every so many."""
    count = 0
    async for delta in deltas:
        count += 1
        if count % REPORT_EVERY == 1:
            await progress(count, "The model is answering")
        yield delta


def _checked(body: type[Any], arguments: Arguments) -> Any:
    try:
        return body.model_validate(arguments)
    except ValidationError as error:
        # the errors of a route have the place of the body in front
        raise as_app_error([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]) from None


def _schema(body: type[BaseModel]) -> dict[str, Any]:
    schema = body.model_json_schema()
    for noise in ("title", "description", "examples"):
        schema.pop(noise, None)
    return schema


SCHEME = "rag://"
TEMPLATES = {
    "rag://collections/{collection}/documents/{document}": "The text of a document of your own",
    "rag://shared/{collection}/documents/{document}": "The text of a document that everybody shares",
}
PAGE = 100
TEXT, JSON = "text/plain", "application/json"


@dataclass(frozen=True, slots=True)
class ServedDocuments:
    """Implements ServedResources over the library of documents; without one there are none."""

    services: Services
    settings: Settings
    limits: RateLimits

    @property
    def templates(self) -> Mapping[str, str]:
        return TEMPLATES

    async def listed(self, scope: Scope, cursor: str) -> tuple[list[ServedResource], str]:
        """A page, and the cursor of the next one, empty at the end. Raises InvalidValue for an unknown cursor."""
        request = Request(scope)
        await self.limits.count(request, "rag", self.settings.rate_limit_rag)
        caller, library = caller_of(request), self._library
        if library is None:
            return [], ""
        start, _, after = cursor.partition("|")
        places = {_uri(place): place for place in await self._places(library, caller)}
        names = sorted(places)
        if cursor and start not in places:
            raise InvalidValue("The cursor is not one of this list", field="cursor")
        found: list[ServedResource] = []
        for uri in names[names.index(start) if cursor else 0 :]:
            place = places[uri]
            if not after:
                found.append(ServedResource(uri, place.collection, "A collection: its documents", JSON))
            room = PAGE - len(found)
            documents = await library.documents(place.tenant(caller), place.collection, limit=max(room, 1), after=after)
            found += [
                ServedResource(f"{uri}/documents/{one.id}", one.name, f"A document of {place.collection}", TEXT)
                for one in documents
            ]
            if len(documents) >= room:
                return found, f"{uri}|{documents[-1].id}" if documents else f"{uri}|"
            after = ""
        return found, ""

    async def read(self, scope: Scope, uri: str) -> ReadResource:
        """Raises NotFound for what there is not, or what the caller's key does not reach."""
        request = Request(scope)
        await self.limits.count(request, "rag", self.settings.rate_limit_rag)
        caller, library = caller_of(request), self._library
        place, document = _addressed(uri)
        if library is None or not _reaches(caller, place):
            raise NotFound(f"There is no resource {quoted(uri)}")
        tenant = place.tenant(caller)
        if document:
            return ReadResource(TEXT, (await library.text(tenant, place.collection, document)).text)
        collection = await library.collection(tenant, place.collection)
        documents = await library.documents(tenant, place.collection, limit=PAGE)
        content = {
            "collection": collection.name,
            "documents": collection.documents,
            "passages": collection.passages,
            "first": [{"uri": f"{_uri(place)}/documents/{one.id}", "name": one.name} for one in documents],
        }
        return ReadResource(JSON, json.dumps(content, ensure_ascii=False))

    def prompts(self, caller: Caller) -> Sequence[ServedPrompt]:
        """What a user may start from; only what the caller's key can carry out."""
        prompts = []
        if self._library is not None and caller.may_call("/rag/collections"):
            arguments = {"collection": "The collection to search", "question": "The question"}
            prompts.append(
                ServedPrompt(
                    "answer_from_documents",
                    "Answer a question from a collection, with citations",
                    arguments,
                    _answering,
                )
            )
        if caller.may_call("/generate") and caller.may_call("/local/generate"):
            prompts.append(
                ServedPrompt(
                    "compare_models", "Ask the cloud and the local model the same", {"question": "The question"}, _both
                )
            )
        return prompts

    @property
    def _library(self) -> Library | None:
        return None if self.services.documents is None else self.services.documents.library

    async def _places(self, library: Library, caller: Caller) -> list[Place]:
        places = [Place(one.name, shared=True) for one in await library.collections(SHARED)]
        if caller.tenant != SHARED:
            places += [Place(one.name) for one in await library.collections(caller.tenant)]
        return [place for place in places if _reaches(caller, place)]


def _answering(arguments: Mapping[str, str]) -> str:
    return (
        f"Search the collection {arguments['collection']!r} with the tool rag_search, more than once where that helps, "
        f"and answer from what it finds alone. Name the document of each statement in brackets; where nothing is "
        f"found, say so.\n\nQuestion: {arguments['question']}"
    )


def _both(arguments: Mapping[str, str]) -> str:
    return (
        "Ask the tools generate and local_generate the question below in the same words, show both answers, and say "
        f"where they differ.\n\nQuestion: {arguments['question']}"
    )


def _uri(place: Place) -> str:
    return f"{SCHEME}{'shared' if place.shared else 'collections'}/{quote(place.collection, safe='')}"


def _addressed(uri: str) -> tuple[Place, str]:
    """The collection and the document, empty for the collection itself. Raises NotFound."""
    base, _, rest = uri.removeprefix(SCHEME).partition("/")
    parts = [unquote(part) for part in rest.split("/")]
    known = uri.startswith(SCHEME) and base in ("collections", "shared") and all(parts)
    if not known or len(parts) not in (1, 3) or (len(parts) == 3 and parts[1] != "documents"):
        raise NotFound(f"There is no resource {quoted(uri)}")
    return Place(parts[0], base == "shared"), parts[2] if len(parts) == 3 else ""


def _reaches(caller: Caller, place: Place) -> bool:
    """As reading by HTTP would be let through."""
    base = "/rag/shared" if place.shared else "/rag/collections"
    return caller.may_use(place.model) and caller.may_call(f"{base}/{place.collection}/documents")
