"""Open WebUI: the bodies that it sends, slider by slider, through OpenAI's connection and Ollama's."""

import httpx
from support import EMBEDDER, PACKAGED, SMOL

TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hello."}]
# each as its advanced parameters send it, alone and all together
SLIDERS = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "frequency_penalty": 0.2, "presence_penalty": 0.1,
    "repeat_penalty": 1.1, "seed": 42, "stop": ["END"], "max_tokens": 8, "logit_bias": {"50": -100},
    "reasoning_effort": "none", "repeat_last_n": 64, "tfs_z": 1, "mirostat": 0, "mirostat_eta": 0.1,
    "mirostat_tau": 5.0, "num_ctx": 2048, "num_batch": 512, "num_keep": 24, "num_gpu": 0, "num_thread": 2,
    "use_mmap": True, "use_mlock": False, "keep_alive": "5m",
}  # fmt: skip
BOOKKEEPING = {
    "session_id": "s", "chat_id": "c", "metadata": {"chat_id": "c"}, "background_tasks": {}, "features": {},
    "files": [], "tool_ids": [], "filter_ids": [], "variables": {}, "params": {}, "tool_servers": [], "model_item": {},
}  # fmt: skip


def asked(client, path, body):
    answer = client.post(f"{PACKAGED}{path}", json=body)
    assert answer.status_code == 200, (body, answer.text)
    return answer


with httpx.Client(timeout=120) as client:
    body = {"model": SMOL, "messages": TURNS, "max_tokens": 2}
    for name, value in SLIDERS.items():
        asked(client, "/v1/chat/completions", {**body, name: value})
    everything = {**body, **SLIDERS, **BOOKKEEPING, "stream": True, "stream_options": {"include_usage": True}}
    streamed = asked(client, "/v1/chat/completions", everything).text
    assert "data: [DONE]" in streamed and '"usage"' in streamed
    # titles, tags and follow-ups: a task of its own with a short limit
    title = {**body, "stream": False, "max_completion_tokens": 50, "metadata": {"task": "title_generation"}}
    assert asked(client, "/v1/chat/completions", title).json()["choices"][0]["message"]["content"]
    ids = [model["id"] for model in client.get(f"{PACKAGED}/v1/models").json()["data"]]
    assert SMOL in ids and EMBEDDER in ids

    assert client.get(f"{PACKAGED}/api/version").json()["version"]
    assert SMOL in [model["model"] for model in client.get(f"{PACKAGED}/api/tags").json()["models"]]
    options = {name: value for name, value in SLIDERS.items() if name not in ("max_tokens", "keep_alive", "logit_bias")}
    chat = {
        "model": SMOL,
        "messages": TURNS,
        "stream": True,
        "keep_alive": "5m",
        "options": {**options, "num_predict": 2},
    }
    assert '"done":true' in asked(client, "/api/chat", chat).text.replace(" ", "")
    # its knowledge base asks for embeddings in either shape
    assert len(asked(client, "/v1/embeddings", {"model": EMBEDDER, "input": ["a", "b"]}).json()["data"]) == 2
    assert (
        len(asked(client, "/api/embed", {"model": EMBEDDER, "input": ["a"], "truncate": True}).json()["embeddings"])
        == 1
    )
