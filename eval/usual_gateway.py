"""The other yardstick of `make bench-gateway`: FastAPI and the openai SDK, written the way that tutorials write it.

UPSTREAM=http://127.0.0.1:9100/v1 uvicorn eval.usual_gateway:app. Never serve it.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response, StreamingResponse


class ChatBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]]
    stream: bool = False


app = FastAPI()
client = AsyncOpenAI(base_url=os.environ.get("UPSTREAM", "http://127.0.0.1:9100/v1"), api_key="unused")


@app.post("/v1/chat/completions")
async def chat(body: ChatBody) -> Response:
    answer: Any = await client.chat.completions.create(**body.model_dump())
    if body.stream:
        return StreamingResponse(_events(answer), media_type="text/event-stream")
    return JSONResponse(answer.model_dump())


async def _events(chunks: AsyncStream[ChatCompletionChunk]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield f"data: {chunk.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"
