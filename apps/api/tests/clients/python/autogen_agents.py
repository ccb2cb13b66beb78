"""AutoGen: an agent with a tool, and a streaming one; its messages carry `name`."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from support import HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather

INFO = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}


def client(url, model, **more):
    return OpenAIChatCompletionClient(
        model=model, base_url=f"{url}/v1", api_key=KEY, model_info=INFO, include_name_in_message=True, **more
    )


async def main():
    scripted = client(SCRIPTED, MODEL)
    agent = AssistantAgent("forecaster", scripted, tools=[weather], reflect_on_tool_use=True)
    told = await agent.run(task=QUESTION)
    assert told.messages[-1].content == SUNNY, told
    usage = scripted.total_usage()
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    streaming = AssistantAgent("greeter", scripted, model_client_stream=True)
    events = [event async for event in streaming.run_stream(task="Hello")]
    assert events[-1].messages[-1].content == HELLO, events[-1]
    packaged = client(PACKAGED, SMOL, max_tokens=8)
    said = await AssistantAgent("small", packaged).run(task="Say hello.")
    assert said.messages[-1].content.strip()
    await scripted.close()
    await packaged.close()


asyncio.run(main())
