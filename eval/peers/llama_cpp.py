"""The pytest plugin that llama.cpp's server tests run with: a `utils` of ours in place of theirs.

It needs pytest and requests alone, since it is loaded by the clients' environment. Their tests ask a server that they
start with flags; here each asks the one service, behind a proxy that changes names. What a test sets that is a flag of
theirs skips it, with the flag's name. What their model says, and how many tokens it makes of a text, is compared by
kind, since the model is another.
"""

import json
import os
import re
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from eval.peers.left_out import LLAMA_CPP, leave_out

SECONDS = 300
# words that only their model of stories says; some text in their place is right
THEIR_WORDS = {"(Suddenly)+", "(going|bed)+"}
# parameters of a test that are about their model's words and tokens
OF_THEIR_MODEL = {
    "test_chat_completion": ("re_content", "n_prompt"),
    "test_chat_completion_stream": ("re_content", "n_prompt"),
    "test_rerank_usage": ("n_tokens",),
}
# flags that change what is computed and how, and nothing that a caller sees
SPEED = {"n_ctx", "n_batch", "n_ubatch", "n_slots", "n_threads", "seed", "temperature", "debug", "n_predict", "fa"}
SPEED |= {"server_port", "server_host", "model_alias", "offline", "jinja", "server_embeddings", "server_reranking"}
SPEED |= {"kind"}


class SomeCount:
    """Equals every whole number above 0."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other > 0

    def __hash__(self) -> int:
        return 0


class ServerError(Exception):
    def __init__(self, code: int, body: Any) -> None:
        super().__init__(code, body)
        self.code = code
        self.body = body


class Answer:
    """What their tests read of an answer."""

    def __init__(self, response: requests.Response) -> None:
        self.headers = dict(response.headers)
        self.status_code = response.status_code
        try:
            self.body = response.json()
        except ValueError:
            self.body = response.text


class ServerProcess:
    """The one service, by the interface of their ServerProcess."""

    def __init__(self, kind: str = "", **flags: Any) -> None:
        address = urlsplit(os.environ["PEER_PROXY"])
        self.kind = kind
        self.server_host, self.server_port = address.hostname, address.port
        self.model_alias = ""
        self.api_key = None
        for name, value in flags.items():
            setattr(self, name, value)

    def start(self, timeout_seconds: int = 0) -> None:
        set_here = {name for name, value in vars(self).items() if value not in (None, False, "")}
        flags = sorted(
            name
            for name in set_here - SPEED
            if (name, getattr(self, name)) not in {("pooling", "mean"), ("pooling", "last")}
        )
        if flags:
            pytest.skip(f"about their flags: {', '.join(flags)}")

    def stop(self) -> None:
        """The service goes on."""

    def make_url(self, path: str, host: str | None = None) -> str:
        return f"http://{self.server_host}:{self.server_port}{path}"

    def make_request(
        self, method: str, path: str, data: Any = None, headers: Any = None, timeout: float | None = SECONDS,
        host: str | None = None,
    ) -> Answer:  # fmt: skip
        return Answer(self._ask(method, path, data, headers, timeout or SECONDS))

    def make_stream_request(
        self, method: str, path: str, data: Any = None, headers: Any = None, host: str | None = None
    ) -> Iterator[Any]:
        response = self._ask(method, path, data, headers, SECONDS, stream=True)
        if response.status_code != 200:
            raise ServerError(response.status_code, response.json())
        for line in response.iter_lines():
            text = line.decode()
            if text.startswith("data: ") and text != "data: [DONE]":
                yield json.loads(text[6:])

    def make_any_request(
        self, method: str, path: str, data: Any = None, headers: Any = None, timeout: float | None = SECONDS
    ) -> Any:
        """The answer, whole; a stream is put together."""
        if not data.get("stream"):
            answer = self.make_request(method, path, data, headers, timeout)
            assert answer.status_code == 200, answer.body
            return answer.body
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Any] = []
        reason = None
        for chunk in self.make_stream_request(method, path, data, headers):
            for choice in chunk["choices"]:
                delta = choice["delta"]
                for name, found in (("content", texts), ("reasoning_content", thoughts)):
                    if delta.get(name) is not None:
                        assert delta[name], f"an empty {name}"
                        found.append(delta[name])
                for call in delta.get("tool_calls") or []:
                    if call["index"] >= len(calls):
                        assert call["id"] and call["type"] == "function" and call["function"]["name"]
                        calls.append({"id": call["id"], "type": "function", "function": {"name": "", "arguments": ""}})
                    function = calls[call["index"]]["function"]
                    function["name"] += call["function"].get("name") or ""
                    function["arguments"] += call["function"].get("arguments") or ""
                reason = choice.get("finish_reason") or reason
        message = {
            "role": "assistant",
            "content": "".join(texts) or None,
            "reasoning_content": "".join(thoughts) or None,
            "tool_calls": calls or None,
        }
        return {"choices": [{"index": 0, "finish_reason": reason, "message": message}]}

    def _ask(self, method: str, path: str, data: Any, headers: Any, timeout: float, **more: Any) -> requests.Response:
        sent = {"X-Answer-Model": self.model_alias} if self.model_alias else {}
        sent |= {name: value for name, value in (headers or {}).items() if value is not None}
        return requests.request(method, self.make_url(path), headers=sent, json=data, timeout=timeout, **more)


class ServerPreset:
    """Their presets are models of theirs; each is the service, with its model of that kind."""

    tinyllama2 = staticmethod(lambda: ServerProcess("chat", n_ctx=512, n_slots=2, n_predict=64))
    stories15m_moe = staticmethod(lambda: ServerProcess("chat", n_predict=64))
    bert_bge_small = staticmethod(lambda: ServerProcess("embeddings"))
    bert_bge_small_with_fa = staticmethod(lambda: ServerProcess("embeddings"))
    jina_reranker_tiny = staticmethod(lambda: ServerProcess("rerank"))
    router = staticmethod(lambda: ServerProcess("router", several_models=True))
    tinygemma3 = staticmethod(lambda: ServerProcess("vision", mmproj=True))


def match_regex(regex: str, text: str) -> bool:
    if regex in THEIR_WORDS:
        return bool(text)
    return re.search(regex, text, re.IGNORECASE | re.MULTILINE | re.DOTALL) is not None


def parallel_function_calls(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(function, *args) for function, args in calls]]


def pytest_configure(config: pytest.Config) -> None:
    for marker in ("slow: of theirs", "serial: of theirs"):
        config.addinivalue_line("markers", marker)
    module = types.ModuleType("utils")
    ours = (ServerProcess, ServerPreset, ServerError, match_regex, parallel_function_calls)
    theirs: dict[str, Any] = {"is_slow_test_allowed": lambda: False, "DEFAULT_HTTP_TIMEOUT": SECONDS}
    # what their files take from it without an import of their own
    theirs |= {module.__name__: module for module in (json, os, re, requests, time, sys)}
    theirs |= {name: getattr(typing, name) for name in typing.__all__}
    vars(module).update({one.__name__: one for one in ours} | theirs)
    sys.modules["utils"] = module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert isinstance(item, pytest.Function)
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="about a model of theirs that is downloaded"))
        for name in OF_THEIR_MODEL.get(item.originalname, ()):
            item.callspec.params[name] = SomeCount() if name.startswith("n_") else ".+"
        leave_out(item, item.name, LLAMA_CPP)
