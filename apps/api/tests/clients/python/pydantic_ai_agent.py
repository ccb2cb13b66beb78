"""pydantic-ai: an agent with a tool, a typed answer, and streaming."""

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from support import HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather


class Person(BaseModel):
    name: str
    age: int


async def main():
    provider = OpenAIProvider(base_url=f"{SCRIPTED}/v1", api_key=KEY)
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind(MODEL, provider=provider)
        assert (await Agent(model, tools=[weather]).run(QUESTION)).output == SUNNY, kind
        assert (await Agent(model, output_type=Person).run("Who?")).output == Person(name="Ada", age=36), kind
        async with Agent(model).run_stream("Hello") as streamed:
            assert [text async for text in streamed.stream_text()][-1] == HELLO, kind
    packaged = OpenAIProvider(base_url=f"{PACKAGED}/v1", api_key=KEY)
    small = Agent(OpenAIChatModel(SMOL, provider=packaged), model_settings={"max_tokens": 8, "top_k": 20})
    assert (await small.run("Say hello.")).output.strip()


asyncio.run(main())
