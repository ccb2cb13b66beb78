"""What a call and its connection held is free at their end: no cycles are left to a collector that comes rarely."""

import gc
import http.client
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from apps.api.src.http.protocol import Protocol
from apps.core.errors import AppError
from apps.tests.support.serving import serving_models
from eval.mock_upstream import mock_upstream

CALLS = 8
HELD = (Protocol, RequestResponseCycle, FrameType, TracebackType, AppError)
CHAT = "/v1/chat/completions"


def chat(model: str, **more: Any) -> str:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **more})


CASES: dict[str, tuple[str, str]] = {
    "an answer": (CHAT, chat("gpt-4o-mini")),
    "a stream": (CHAT, chat("gpt-4o-mini", stream=True)),
    "generate": ("/generate", '{"prompt": "hi"}'),
    "generate, streamed": ("/generate?stream=true", '{"prompt": "hi"}'),
    "a refusal": (CHAT, chat("fault-400")),
    "a refused stream": (CHAT, chat("fault-429-1", stream=True)),
    "nonsense": (CHAT, chat("fault-badjson")),
    "a stream that breaks off": (CHAT, chat("fault-cut", stream=True)),
    "generate, broken off": ("/generate?stream=true", json.dumps({"prompt": "hi", "model": "fault-cut"})),
    "a bad value": ("/generate", '{"prompt": 1}'),
    "no JSON": ("/generate", "{"),
    "no route": ("/nowhere", "{}"),
    "Anthropic's": ("/v1/messages", chat("fault-400", max_tokens=5)),
    "Ollama's": ("/api/chat", chat("fault-400")),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with (
        mock_upstream(tokens=5) as upstream,
        serving_models(openai_base_url=upstream.base_url, auth="off", retry_attempts=1, retry_backoff=0.01) as url,
    ):
        yield int(url.rpartition(":")[2])


def post(port: int, path: str, body: str, times: int) -> None:
    """Each on a connection of its own."""
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        connection.getresponse().read()
        connection.close()


def garbage_of(port: int, cases: Iterable[str]) -> Counter[str]:
    """What only the collector would have freed after some calls of each, by kind."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for case in cases:
            post(port, *CASES[case], CALLS)
        post(port, "/healthz", "", 1)  # the server has seen the end of the ones before
        gc.collect()
        return Counter(type(one).__name__ for one in gc.garbage if isinstance(one, HELD))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.long
def test_no_call_leaves_anything_to_the_collector(port: int) -> None:
    for path, body in CASES.values():
        post(port, path, body, 2)
    if sum(garbage_of(port, CASES).values()) < CALLS:
        return
    found = {case: garbage_of(port, [case]) for case in CASES}
    assert not {case: kinds for case, kinds in found.items() if sum(kinds.values()) >= CALLS // 2}
