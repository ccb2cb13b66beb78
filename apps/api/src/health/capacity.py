"""What this machine's models can take now. Not limited: a fleet asks several times a second before it sends a call."""

from collections.abc import Iterator

from fastapi import APIRouter, Request

from apps.api.src.auth.caller import caller_of, may_use
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.wiring.services import Services
from apps.models.capacity import Capacity, KnowsControlTexts, Measured, ModelCapacity


def capacity_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/v1/capacity", response_model_exclude_none=True)
    async def capacity(request: Request, control_texts: bool = False) -> Capacity:
        """The models of this machine that the caller may use: slots, queue, speed, and the wait to expect.

        `draining` is true from SIGTERM on: calls under way are answered, and new ones should go elsewhere.
        """
        caller, is_local = caller_of(request), services.gateway.router.is_local
        shutdown: Shutdown = request.app.state.shutdown
        models = [
            model
            for model in _models(services)
            if may_use(caller, model.id, (lambda _: True) if model.kind == "chat" else is_local)
        ]
        if control_texts and isinstance(services.local, KnowsControlTexts):
            texts = services.local.control_texts()
            models = [
                model.model_copy(update={"control_texts": texts}) if model.kind == "chat" else model for model in models
            ]
        return Capacity(draining=shutdown.draining, models=models)

    return router


def _models(services: Services) -> Iterator[ModelCapacity]:
    """Those of this process, or of the one that it has for them; an upstream's capacity is the upstream's affair."""
    if isinstance(services.local, Measured):
        yield services.local.capacity()
    for provider in services.gateway.router.providers.values():
        if provider.config.kind == "embedder":
            ready, queue = provider.chat.readiness(), provider.admission
            longest = ready.details.get("longest_input")
            yield ModelCapacity.model_construct(
                id=ready.name,
                kind="embedding",
                status=ready.state,
                reason=ready.reason,
                slots=queue.slots,
                running=queue.running,
                waiting=queue.waiting,
                queue_size=queue.queue_size,
                context=longest if isinstance(longest, int) else None,
                predicted_wait=round(queue.predicted_wait(), 3),
            )
    if services.reranker is not None and services.reranker_is_local:
        ready = services.reranker.readiness()
        yield ModelCapacity.model_construct(id=ready.name, kind="rerank", status=ready.state, reason=ready.reason)
