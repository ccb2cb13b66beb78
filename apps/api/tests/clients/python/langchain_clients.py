"""LangChain: chats, tools, structured answers, embeddings as they are sent by default, and its Ollama classes."""

import os
from pathlib import Path

import litellm
import openai
import tiktoken
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from support import EMBEDDER, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather

# this package has OpenAI's tokens with it, which tiktoken would fetch
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers")


class Person(BaseModel):
    name: str
    age: int


def chat(url, model, **more):
    return ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=KEY, max_retries=0, **more)


scripted = chat(SCRIPTED, MODEL, stream_usage=True)
assert scripted.invoke("Hello").content == HELLO
parts = list(scripted.stream("Hello"))
assert "".join(part.content for part in parts) == HELLO
assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) > 0

tools = scripted.bind_tools([tool(weather)])
asked = tools.invoke([HumanMessage(QUESTION)])
assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Paris"})]
result = ToolMessage("sunny", tool_call_id=asked.tool_calls[0]["id"])
assert tools.invoke([HumanMessage(QUESTION), asked, result]).content == SUNNY
for method in ("json_schema", "function_calling"):
    assert scripted.with_structured_output(Person, method=method).invoke("Who?") == Person(name="Ada", age=36), method

packaged = chat(PACKAGED, SMOL, max_tokens=8, temperature=0, logprobs=True, top_p=0.9, frequency_penalty=0.2)
answer = packaged.invoke([HumanMessage("Say hello.", name="someone")])
assert (
    answer.content and answer.usage_metadata["output_tokens"] <= 8 and answer.response_metadata["logprobs"]["content"]
)

# the default sends OpenAI's tokens: an upstream takes them as they are
assert tiktoken.get_encoding("cl100k_base").encode("hello") == [15339]
vectors = OpenAIEmbeddings(model="m", base_url=f"{SCRIPTED}/v1", api_key=KEY).embed_documents(["one", "two"])
assert len(vectors) == 2
# a model with tokens of its own is sent texts
here = {"model": EMBEDDER, "base_url": f"{PACKAGED}/v1", "api_key": KEY}
texts = OpenAIEmbeddings(check_embedding_ctx_length=False, **here)
one, same = texts.embed_query("one"), texts.embed_documents(["one", "two"])[0]
assert len(one) == 384 and max(abs(a - b) for a, b in zip(one, same, strict=True)) < 1e-4
try:
    # a token beyond its vocabulary is named, and nothing is embedded in its place
    OpenAIEmbeddings(**here).embed_documents(["unbelievably idiosyncratic"])
except openai.BadRequestError as error:
    assert "token" in error.message
else:
    raise AssertionError("tokens that the model does not have were taken")

ollama = ChatOllama(model=MODEL, base_url=SCRIPTED)
assert ollama.invoke("Hello").content == HELLO
assert "".join(part.content for part in ollama.stream("Hello")) == HELLO
called = ollama.bind_tools([tool(weather)]).invoke(QUESTION)
assert called.tool_calls[0]["args"] == {"city": "Paris"}
assert len(OllamaEmbeddings(model=EMBEDDER, base_url=PACKAGED).embed_query("one")) == 384
