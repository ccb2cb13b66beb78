"""POST /v1/rerank: documents by their relevance to a query, from the reranker of RERANK_MODEL."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from apps.api.src.auth.caller import allow_model, caller_of
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.rerank.schemas import DocumentText, RankedText, RerankAnswer, RerankBody, RerankResult, RerankUsage
from apps.api.src.wiring.services import Services
from apps.core.calls import CallRecord, Usage
from apps.core.errors import InvalidValue, MissingRequiredField, ModelUnavailable, NotFound, quoted
from apps.core.ports import Reranker
from apps.core.settings import Settings
from apps.models.metering import CHARACTERS_PER_TOKEN

NOT_CONFIGURED = "There is no reranker here: RERANK_MODEL names one"


def rerank_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=limits.route_class("v1", settings.rate_limit_v1), tags=["v1"])
    is_local = not settings.rerank_base_url

    @router.post("/rerank", response_model_exclude_none=True)
    async def rerank(request: Request, response: Response, body: RerankBody) -> RerankAnswer | list[RankedText]:
        """Documents by relevance to the query, best first (Cohere's and Jina's shape, and that of TEI)."""
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
