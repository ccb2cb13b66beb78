"""haystack: a generator with tools, streaming, and embedders."""

from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, Document
from haystack.tools import Tool
from haystack.utils import Secret
from support import EMBEDDER, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
key = Secret.from_token(KEY)
scripted = OpenAIChatGenerator(model=MODEL, api_base_url=f"{SCRIPTED}/v1", api_key=key)
assert scripted.run([ChatMessage.from_user("Hello")])["replies"][0].text == HELLO
parts = []
scripted.run([ChatMessage.from_user("Hello")], streaming_callback=lambda chunk: parts.append(chunk.content))
assert "".join(parts) == HELLO
tool = Tool(name="weather", description="Tells it", parameters=PARAMETERS, function=weather)
asked = ChatMessage.from_user(QUESTION)
reply = scripted.run([asked], tools=[tool])["replies"][0]
(call,) = reply.tool_calls
result = ChatMessage.from_tool(tool.invoke(**call.arguments), origin=call)
assert scripted.run([asked, reply, result], tools=[tool])["replies"][0].text == SUNNY

small = OpenAIChatGenerator(
    model=SMOL, api_base_url=f"{PACKAGED}/v1", api_key=key, generation_kwargs={"max_completion_tokens": 8}
)
assert small.run([ChatMessage.from_user("Say hello.", name="someone")])["replies"][0].text
place = {"model": EMBEDDER, "api_base_url": f"{PACKAGED}/v1", "api_key": key}
assert len(OpenAITextEmbedder(**place).run("one")["embedding"]) == 384
documents = OpenAIDocumentEmbedder(progress_bar=False, **place).run([Document(content="one"), Document(content="two")])
assert [len(document.embedding) for document in documents["documents"]] == [384, 384]
