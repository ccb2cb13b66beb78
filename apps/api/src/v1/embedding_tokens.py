"""POST /v1/embeddings/tokens: what an embedder's tokenizer knows of texts, for processes that have no embedder.

Served by SERVE_ROLE=model alone: ingestion measures passages by it, and search how much of a question is unknown.
"""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from apps.api.src.wiring.services import Services
from apps.core.errors import InvalidValue, NotFound, quoted
from apps.core.fields import Schema
from apps.core.ports import Embedder, EmbedsTokens, KnowsWords
from apps.gateway.openai_api.embeddings import MOST_TEXTS


class TokensBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    model: str = Field(description="The embedding model's name")
    input: Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
    return_tokens: bool = Field(False, description="Whether the answer has the tokens")
    return_unknown_shares: bool = Field(False, description="Whether it has each text's share of unknown tokens")


class TokensAnswer(Schema):
    model: str
    counts: list[int] = Field(description="Tokens of each text, special ones included")
    tokens: list[list[int]] | None = None
    unknown_shares: list[float] | None = Field(None, description="0 to 1, of each text")


def embedding_tokens_router(services: Services) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["v1"])

    @router.post("/embeddings/tokens", response_model_exclude_none=True)
    async def tokens(body: TokensBody) -> TokensAnswer:
        """The tokens of texts, as an embedding model of this machine reads them."""
        embedder = _named(services, body.model)
        if not isinstance(embedder, EmbedsTokens):
            raise InvalidValue("The tokenizer of this model is not here", field="model")
        shares = None
        if body.return_unknown_shares:
            if not isinstance(embedder, KnowsWords):
                raise InvalidValue("This model does not tell what it does not know", field="model")
            shares = await embedder.unknown_shares(body.input)
        runs = await embedder.tokenize(body.input)
        return TokensAnswer(
            model=embedder.name,
            counts=[len(run) for run in runs],
            tokens=runs if body.return_tokens else None,
            unknown_shares=shares,
        )

    return router


def _named(services: Services, name: str) -> Embedder:
    """Raises NotFound."""
    here = [services.embedder, *services.embedders]
    found = next((one for one in here if one is not None and one.name == name), None)
    if found is None:
        raise NotFound(f"No embedding model is named {quoted(name)}", field="model")
    return found
