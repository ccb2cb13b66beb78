"""litellm: both of its providers for such services, streams, embeddings, rerank's error, and its classes of errors."""

import litellm
from support import EMBEDDER, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
scripted = {"api_base": f"{SCRIPTED}/v1", "api_key": KEY, "num_retries": 0, "max_retries": 0}
packaged = {**scripted, "api_base": f"{PACKAGED}/v1"}


def said(text):
    return [{"role": "user", "content": text}]


for provider in ("openai", "hosted_vllm"):
    model = f"{provider}/{MODEL}"
    whole = litellm.completion(model=model, messages=said("Hello"), **scripted)
    assert whole.choices[0].message.content == HELLO
    parts = litellm.completion(
        model=model, messages=said("Hello"), stream=True, stream_options={"include_usage": True}, **scripted
    )
    chunks = list(parts)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == HELLO
    called = litellm.completion(model=model, messages=said(QUESTION), tools=[TOOL], **scripted)
    assert called.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'

anthropic = litellm.completion(
    model=f"anthropic/{MODEL}", messages=said("Hello"), max_tokens=9, api_base=SCRIPTED, api_key=KEY
)
assert anthropic.choices[0].message.content == HELLO
ollama = litellm.completion(model=f"ollama_chat/{MODEL}", messages=said("Hello"), api_base=SCRIPTED)
assert ollama.choices[0].message.content == HELLO

small = litellm.completion(model=f"openai/{SMOL}", messages=said("Say hello."), max_tokens=8, seed=3, **packaged)
assert small.choices[0].message.content and small.usage.completion_tokens <= 8
vector = litellm.embedding(model=f"openai/{EMBEDDER}", input=["one", "two"], **packaged)
assert [len(one["embedding"]) for one in vector.data] == [384, 384]

for name, more, kind in (
    ("too long", {"messages": said("word " * 9000)}, litellm.ContextWindowExceededError),
    ("odd value", {"messages": said("x"), "temperature": 9}, litellm.BadRequestError),
):
    try:
        litellm.completion(model=f"openai/{SMOL}", **more, **packaged)
    except kind:
        continue
    raise AssertionError(name)
