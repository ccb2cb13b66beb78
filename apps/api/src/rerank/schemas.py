"""The body and the answer of /v1/rerank."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from apps.core.fields import Between, Schema

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
