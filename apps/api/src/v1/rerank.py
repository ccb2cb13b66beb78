"""POST /v1/rerank: documents by their relevance to a query, in the shape that Cohere and Jina share."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from apps.api.src.auth.authentication import allow_model, caller_of
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.services import Services
from apps.core.calls import CallRecord, Usage
from apps.core.errors import InvalidValue, MissingRequiredField, ModelUnavailable, NotFound, quoted
from apps.core.fields import Between, Schema
from apps.core.ports import Reranker
from apps.core.settings import Settings
from apps.models.metering import CHARACTERS_PER_TOKEN

MOST_DOCUMENTS = 1000
EXAMPLE: JsonDict = {
    "query": "How many days of leave are there?",
    "documents": ["Trains are booked by the office.", "Everybody has 30 days of leave."],
    "top_n": 1,
    "return_documents": True,
}


class DocumentText(Schema):
    model_config = ConfigDict(strict=True, extra="ignore")

    text: str


class RerankBody(BaseModel):
    """What /v1/rerank takes. Types are strict; unknown fields are ignored.

    ``texts`` in place of ``documents`` is the shape of Text Embeddings Inference, which is answered in its own.
    """

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [EXAMPLE]})

    model: str | None = Field(None, description="The reranker's name; left out, the one that there is")
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | DocumentText], Field(min_length=1, max_length=MOST_DOCUMENTS)] | None = None
    texts: Annotated[list[str], Field(min_length=1, max_length=MOST_DOCUMENTS)] | None = Field(
        None, description="In place of documents; the answer is an array of index and score"
    )
    top_n: Annotated[int, Between(1, MOST_DOCUMENTS)] | None = Field(None, description="The most results; default: all")
    return_documents: bool = Field(False, description="Whether each result has its document's text")
    return_text: bool = Field(False, description="The same for texts")


class RerankResult(Schema):
    index: int = Field(description="Of the document in the call")
    relevance_score: float = Field(description="0 to 1, best first")
    document: DocumentText | None = None


class RerankUsage(Schema):
    prompt_tokens: int
    total_tokens: int


class RankedText(Schema):
    """A result in the shape of Text Embeddings Inference."""

    index: int
    score: float
    text: str | None = None


class RerankAnswer(Schema):
    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage | None = Field(description="null where the upstream does not tell")


NOT_CONFIGURED = "There is no reranker here: RERANK_MODEL names one"


def rerank_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=limits.route_class("v1", settings.rate_limit_v1), tags=["v1"])
    is_local = not settings.rerank_base_url

    @router.post("/rerank", response_model_exclude_none=True)
    async def rerank(request: Request, response: Response, body: RerankBody) -> RerankAnswer | list[RankedText]:
        """Documents by relevance to the query, best first.

        In Cohere's and Jina's shape, or that of Text Embeddings Inference.
        """
        texts = _texts(body)
        if body.model is not None:
            # before the answer tells what there is
            allow_model(caller_of(request), body.model, lambda _: is_local)
        reranker = _reranker(services, body.model)
        allow_model(caller_of(request), reranker.name, lambda _: is_local)
        record = CallRecord(caller_of(request), "/v1/rerank", body.model or reranker.name)
        record.model, record.provider = reranker.name, "local" if is_local else "rerank"
        record.estimated_tokens = _estimated_tokens(body.query, texts)
        record.estimated_cost = 0.0 if is_local else None
        async with services.meter.call(record):
            record.attempts = 1
            ranked = await reranker.rerank(body.query, texts)
            record.model = ranked.model
            counted = record.estimated_tokens if ranked.tokens is None else ranked.tokens
            record.usage = Usage(counted, 0, cost=0.0 if is_local else None, estimated=ranked.tokens is None)
        order = sorted(range(len(texts)), key=lambda index: (-ranked.scores[index], index))[: body.top_n]
        response.headers["X-Model"] = ranked.model
        if body.documents is None:
            shown = body.return_text
            return [
                RankedText(index=index, score=ranked.scores[index], text=texts[index] if shown else None)
                for index in order
            ]
        return RerankAnswer(
            id=f"rerank-{request.state.request_id}" if hasattr(request.state, "request_id") else "rerank",
            model=ranked.model,
            results=[
                RerankResult(
                    index=index,
                    relevance_score=ranked.scores[index],
                    document=DocumentText(text=texts[index]) if body.return_documents else None,
                )
                for index in order
            ],
            usage=RerankUsage(prompt_tokens=ranked.tokens, total_tokens=ranked.tokens)
            if ranked.tokens is not None
            else None,
        )

    return router


def _texts(body: RerankBody) -> list[str]:
    """Raises an error of the contract's table where there are none, or two lists of them."""
    if body.documents is not None and body.texts is not None:
        raise InvalidValue("Documents and texts are the same by two names: send one of them", field="texts")
    if body.texts is not None:
        return body.texts
    if body.documents is None:
        raise MissingRequiredField("Documents is required", field="documents")
    return [one if isinstance(one, str) else one.text for one in body.documents]


def _estimated_tokens(query: str, texts: Sequence[str]) -> int:
    """A cross-encoder reads the query with each of the texts."""
    return sum(len(query) + len(text) for text in texts) // CHARACTERS_PER_TOKEN + 1


def _reranker(services: Services, model: str | None) -> Reranker:
    """Raises ModelUnavailable where there is none, and NotFound for another name."""
    if services.reranker is None:
        raise ModelUnavailable(NOT_CONFIGURED, details={"state": "not_configured"}, retry_after=60)
    if model is not None and model != services.reranker.name:
        raise NotFound(f"No reranker is named {quoted(model)}", field="model")
    return services.reranker
