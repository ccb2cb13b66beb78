"""Answers from documents: a ChatModel that wraps a ChatModel, and gives citations with its first delta.

It searches in the caller's tenant for the last user message, puts what it finds before the question as quoted data,
and asks the wrapped model. It offers no tools: so nothing that a document says can call one.
"""

import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from apps.core.callers import SHARED, Caller
from apps.core.calls import Usage
from apps.core.deltas import Citation, Delta, begin
from apps.core.errors import AppError, InvalidValue, NotFound, quoted
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness, Writer
from apps.rag.library import Filter
from apps.rag.prompting import fitted, question_of
from apps.rag.records import Passage
from apps.rag.relevance import RELEVANT, Support, quotable

log = logging.getLogger(__name__)

PREFIX = "rag/"
NAME = re.compile(r"(?:(shared)/)?([a-z0-9][a-z0-9_-]{0,62})")
TOP_K = 5
MAX_TOKENS = 500
# characters: whatever is wrong with a question as short as this, it is not its length
SHORT = 64
MOST_QUOTES = 2
NO_ANSWER = "I don't know: the documents say nothing about this."


class Searchable(Protocol):
    """What an answer needs of the library."""

    async def search(
        self, tenant: str, collection: str, text: str, *, top_k: int = 5, filter: Filter | None = None
    ) -> list[Passage]: ...

    def readiness(self) -> Readiness: ...


@runtime_checkable
class Supporting(Protocol):
    """A library that finds what in its passages supports an answer."""

    async def supports(self, answer: str, passages: Sequence[Passage]) -> list[Support | None]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A collection, as its callers name it: one of their own tenant's, or one that everybody shares."""

    collection: str
    shared: bool = False

    @property
    def model(self) -> str:
        """Its name among the models."""
        return f"{PREFIX}{SHARED}/{self.collection}" if self.shared else PREFIX + self.collection

    def tenant(self, caller: Caller) -> str:
        """The tenant that owns it. Shared collections belong to a tenant of their own."""
        if self.shared:
            return SHARED
        return own_tenant(caller)


def own_tenant(caller: Caller) -> str:
    """The tenant of a caller's own collections. Raises NotFound for the one name that would make them everybody's."""
    if caller.tenant == SHARED:
        raise NotFound("This tenant has no collections of its own: they are under /rag/shared")
    return caller.tenant


def place_of(model: str) -> Place:
    """The collection that a model's name means. Raises NotFound."""
    found = NAME.fullmatch(model.removeprefix(PREFIX))
    if not model.startswith(PREFIX) or found is None:
        raise NotFound(f"No model is named {quoted(model)}", field="model")
    return Place(found[2], shared=found[1] is not None)


@dataclass(frozen=True, slots=True)
class Asking:
    """How to search, and who writes; ``writer`` None is the default model."""

    top_k: int = TOP_K
    filter: Filter | None = None
    writer: str | None = None


class RagModel:
    """Implements ChatModel for one collection.

    Passages that say nothing about the question are left out; where there is no other, the answer is NO_ANSWER and no
    model is asked. ``least_score`` decides by the cosine alone; None leaves it to the calibrated rule (relevance.py).
    Where the default writer has fewer parameters than ``quote_below``, the answer is the documents' own sentences.
    """

    def __init__(
        self,
        library: Searchable,
        writer: Writer,
        place: Place,
        least_score: float | None,
        asking: Asking = Asking(),
        quote_below: int = 0,
    ) -> None:
        self._quote_below = quote_below
        self._library = library
        self._writer = writer
        self._place = place
        self._least_score = least_score
        self._asking = asking

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        if request.tools or request.raw:
            raise InvalidValue("An answer from documents takes no tools", field="tools")
        chat_request = replace(request, model=self._asking.writer, max_tokens=request.max_tokens or MAX_TOKENS)
        passages = await self._relevant(chat_request)
        if not passages:
            yield Delta(NO_ANSWER, model=self._place.model, citations=())
            yield Delta(finish_reason="stop", usage=Usage(0, 0), model=self._place.model)
            return
        if self._quotes():
            async for delta in self._quoted(question_of(chat_request), passages):
                yield delta
            return
        prompt = await fitted(chat_request, passages, await self._writer.window(chat_request))
        begun = await begin(self._writer.stream(prompt.request))
        parts = [begun.first.text]
        async with aclosing(begun.rest):
            first = await self._ended(begun.first, parts, prompt.passages)
            yield first if first.citations is not None else replace(first, citations=cited(prompt.passages))
            async for delta in begun.rest:
                parts.append(delta.text)
                yield await self._ended(delta, parts, prompt.passages)

    def _quotes(self) -> bool:
        """Whether the writer is too small to write: known of a local model alone, and only where none is named."""
        parameters = self._writer.readiness().details.get("parameters")
        small = isinstance(parameters, int) and parameters < self._quote_below
        return small and self._asking.writer is None and isinstance(self._library, Supporting)

    async def _quoted(self, question: str, passages: Sequence[Passage]) -> AsyncGenerator[Delta, None]:
        """Answer with the sentences that support the question most, each with its passage's number."""
        found: list[Support | None] = [None] * len(passages)
        if isinstance(self._library, Supporting):
            found = await self._library.supports(question, passages)
        chosen = quotable(found, MOST_QUOTES)
        # the others' sentences are not part of the answer: they support nothing of it
        found = [support if index in chosen else None for index, support in enumerate(found)]
        parts = [
            f"{passage.text[support.start - passage.start : support.end - passage.start].strip()} [{number}]"
            for number, (passage, support) in enumerate(zip(passages, found, strict=True), 1)
            if support is not None
        ]
        # no sentence stands out: the best passage says it as a whole
        text = "\n".join(parts) or f"{passages[0].text.strip()} [1]"
        yield Delta(text, model=self._place.model, citations=cited(passages, found))
        yield Delta(finish_reason="stop", usage=Usage(0, 0), model=self._place.model)

    async def _ended(self, delta: Delta, parts: Sequence[str], passages: Sequence[Passage]) -> Delta:
        """The last delta has the citations again, with what supports the answer."""
        answer = "".join(parts)
        if delta.finish_reason is None or not answer.strip() or not isinstance(self._library, Supporting):
            return delta
        try:
            found = await self._library.supports(answer, passages)
        except AppError:
            # the answer is whole without it
            log.warning("no supporting sentences were found", exc_info=True)
            return delta
        return replace(delta, citations=cited(passages, found))

    def readiness(self) -> Readiness:
        return _readiness(self._place.model, self._library, self._writer)

    async def start(self) -> None:
        """The library and the writer are started by their owner."""

    async def aclose(self) -> None:
        """The library and the writer are closed by their owner."""

    async def _relevant(self, request: ChatRequest) -> list[Passage]:
        found = await self._found(self._place.tenant(request.caller), question_of(request))
        return [passage for passage in found if self._is_relevant(passage)]

    def _is_relevant(self, passage: Passage) -> bool:
        if self._least_score is None:
            return passage.relevance is None or passage.relevance >= RELEVANT
        return (passage.vector_score or 0.0) >= self._least_score

    async def _found(self, tenant: str, question: str) -> list[Passage]:
        """What is found for the question, or for the end of one that is longer than the embedding model takes."""
        while True:
            try:
                return await self._library.search(
                    tenant, self._place.collection, question, top_k=self._asking.top_k, filter=self._asking.filter
                )
            except InvalidValue as error:
                if error.field != "query" or len(question) < SHORT:
                    raise
                # the writer reads all of it all the same
                question = question[len(question) // 2 :]


class RagModels:
    """Implements ChatModel for all collections: the request's ``model`` says which, as ``rag/<collection>``."""

    def __init__(self, library: Searchable, writer: Writer, least_score: float | None, quote_below: int = 0) -> None:
        self._quote_below = quote_below
        self._library = library
        self._writer = writer
        self._least_score = least_score

    def of(self, place: Place, asking: Asking = Asking()) -> RagModel:
        return RagModel(self._library, self._writer, place, self._least_score, asking, self._quote_below)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        async with aclosing(self.of(place_of(request.model or "")).stream(request)) as deltas:
            try:
                async for delta in deltas:
                    yield delta
            except NotFound as error:
                raise NotFound(error.message, field="model", details=error.details) from error

    def readiness(self) -> Readiness:
        return _readiness(PREFIX + "*", self._library, self._writer)

    async def start(self) -> None:
        """The library and the writer are started by their owner."""

    async def aclose(self) -> None:
        """The library and the writer are closed by their owner."""


def _readiness(name: str, library: Searchable, writer: Writer) -> Readiness:
    """As ready as the library and the model that writes."""
    found = library.readiness()
    if found.state != "ready":
        return replace(found, name=name)
    writes = writer.readiness()
    return Readiness(name, writes.state, f"{writes.name} writes: {writes.reason}")


def cited(passages: Sequence[Passage], supports: Sequence[Support | None] | None = None) -> tuple[Citation, ...]:
    """Passages as citations, numbered as the model sees them."""
    found = supports or [None] * len(passages)
    return tuple(
        Citation(
            number,
            passage.document,
            passage.name,
            passage.page,
            passage.headings,
            passage.start,
            passage.end,
            passage.score,
            passage.text,
            None if support is None else support.span,
        )
        for number, (passage, support) in enumerate(zip(passages, found, strict=True), 1)
    )
