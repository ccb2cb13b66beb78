"""Questions to a collection: the passages that a search finds, or an answer that a model writes from them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from apps.api.src.answers import answer
from apps.api.src.caller import allow_addressed, allow_model, caller_of
from apps.api.src.limits import RateLimits
from apps.api.src.openapi import error_responses
from apps.api.src.rag.documentation import SEARCH, answer_responses
from apps.api.src.rag.places import BASES, answers_of, library_of
from apps.api.src.rag.schemas import Passages, QueryBody, RagAnswer, RagGenerateBody, query_body, rag_generate_body
from apps.api.src.rag.shown import shown_passages
from apps.api.src.routes.openai_routes import Stream
from apps.api.src.wiring import Services
from apps.core.settings import Settings
from apps.models.gateway.config import Price
from apps.models.gateway.router import Needs
from apps.models.gateway.targets import FREE
from apps.models.metering import MeteredModel
from apps.rag.answering import Asking, Place


def rag_answer_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("rag", settings.rate_limit_rag), tags=["rag"])
    query, generate = query_body(settings), rag_generate_body(settings)
    for base, shared in BASES.items():
        _add_query(router, services, base + "/{name}/query", shared, query)
        _add_generate(router, services, settings, base + "/{name}/generate", shared, generate)
    return router


def _add_query(router: APIRouter, services: Services, path: str, shared: bool, taken: type[QueryBody]) -> None:
    async def query(request: Request, name: str, body: QueryBody) -> Passages:
        """The best passages, best first; no model writes anything."""
        place, caller = Place(name, shared), caller_of(request)
        allow_addressed(caller, place.model)
        found = await library_of(services).search(
            place.tenant(caller), name, body.query, top_k=body.top_k, filter=body.filter
        )
        return Passages(passages=shown_passages(found))

    query.__annotations__["body"] = taken
    router.add_api_route(path, query, methods=["POST"], responses=error_responses(*SEARCH))


def _add_generate(
    router: APIRouter, services: Services, settings: Settings, path: str, shared: bool, taken: type[RagGenerateBody]
) -> None:
    async def generate(request: Request, name: str, body: RagGenerateBody, stream: Stream = False) -> Response:
        """Answer from the documents, with the passages that the answer was made from."""
        place, caller = Place(name, shared), caller_of(request)
        allow_addressed(caller, place.model)
        if body.model is not None:
            allow_model(caller, body.model, services.gateway.router.is_local)
        rag = answers_of(services).of(place, Asking(body.top_k, body.filter, body.model))
        # never from the response cache: what documents say changes
        metered = MeteredModel(rag, services.meter, path, lambda _: price(body.model))
        return await answer(request, metered, body.to_chat(caller, place.model), stream=stream)

    def price(writer: str | None) -> Price | None:
        name = writer or settings.rag_model
        return services.gateway.dearest(name, Needs()) if name else FREE

    generate.__annotations__["body"] = taken
    router.add_api_route(path, generate, methods=["POST"], response_model=RagAnswer, responses=answer_responses())
