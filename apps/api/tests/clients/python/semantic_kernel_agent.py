"""Semantic Kernel: a chat agent with a plugin's function, and streaming; its messages carry `name`."""

import asyncio

from openai import AsyncOpenAI
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.functions import KernelArguments, kernel_function
from support import HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather


class Weather:
    @kernel_function(name="weather", description="The weather of a city")
    def weather(self, city: str) -> str:
        return weather(city)


def service(url, model):
    return OpenAIChatCompletion(ai_model_id=model, async_client=AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY))


async def main():
    agent = ChatCompletionAgent(service=service(SCRIPTED, MODEL), name="Forecaster", plugins=[Weather()])
    assert str((await agent.get_response(messages=QUESTION)).content) == SUNNY
    greeter = ChatCompletionAgent(service=service(SCRIPTED, MODEL), name="Greeter", instructions="Be kind.")
    assert "".join([str(part.content) async for part in greeter.invoke_stream(messages="Hello")]) == HELLO
    few = KernelArguments(settings=OpenAIChatPromptExecutionSettings(max_tokens=8, top_p=0.9, frequency_penalty=0.1))
    small = ChatCompletionAgent(service=service(PACKAGED, SMOL), name="Small", arguments=few)
    assert str((await small.get_response(messages="Say hello.")).content).strip()


asyncio.run(main())
