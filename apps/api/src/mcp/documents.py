"""What MCP clients can read here: the collections that the caller's key reaches, and their documents as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from fastapi import Request

from apps.agents.mcp_port import ReadResource, Scope, ServedPrompt, ServedResource
from apps.api.src.auth.caller import caller_of
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.services import Services
from apps.core.callers import SHARED, Caller
from apps.core.errors import InvalidValue, NotFound, quoted
from apps.core.settings import Settings
from apps.rag.answering import Place
from apps.rag.library import Library

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
        told = {
            "collection": collection.name,
            "documents": collection.documents,
            "passages": collection.passages,
            "first": [{"uri": f"{_uri(place)}/documents/{one.id}", "name": one.name} for one in documents],
        }
        return ReadResource(JSON, json.dumps(told, ensure_ascii=False))

    def prompts(self, caller: Caller) -> Sequence[ServedPrompt]:
        """What a user may start from; only what the caller's key can carry out."""
        prompts = []
        if self._library is not None and caller.may_call("/rag/collections"):
            asked = {"collection": "The collection to search", "question": "The question"}
            prompts.append(
                ServedPrompt(
                    "answer_from_documents", "Answer a question from a collection, with citations", asked, _answering
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
