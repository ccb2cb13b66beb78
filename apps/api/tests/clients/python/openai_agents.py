"""OpenAI's Agents SDK: over chat completions and over responses, with a tool and streamed."""

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from support import HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather

set_tracing_disabled(True)


async def main():
    scripted = AsyncOpenAI(base_url=f"{SCRIPTED}/v1", api_key=KEY)
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        model = kind(model=MODEL, openai_client=scripted)
        agent = Agent(name="Forecaster", instructions="Be terse.", model=model, tools=[function_tool(weather)])
        assert (await Runner.run(agent, QUESTION)).final_output == SUNNY, kind
        greeter = Runner.run_streamed(Agent(name="Greeter", model=model), "Hello")
        texts = [
            event.data.delta
            async for event in greeter.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        assert "".join(texts) == HELLO == greeter.final_output, kind
    packaged = AsyncOpenAI(base_url=f"{PACKAGED}/v1", api_key=KEY)
    # over responses it takes an answer that a limit ends for a failure
    small = Agent(name="Small", model=OpenAIChatCompletionsModel(SMOL, packaged))
    small.model_settings = ModelSettings(max_tokens=8)
    assert (await Runner.run(small, "Say hello.")).final_output.strip()


asyncio.run(main())
