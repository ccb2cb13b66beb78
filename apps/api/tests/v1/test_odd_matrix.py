"""Every odd manner of an upstream on every route, streamed and not: one typed error or a whole answer, and no hang.

Each call has a target of its own, so that no breaker answers in the upstream's place.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.errors import error_classes
from apps.tests.support.odd_replies import BROKEN_WHOLES, CASES
from apps.tests.support.odd_streams import BROKEN_STREAMS, PAUSE
from apps.tests.support.odd_upstream import OddUpstream, odd_upstream
from apps.tests.support.reading import read_events
from apps.tests.support.routing import events, name, provider, routing_file
from apps.tests.support.serving import serving_models

CODES = {kind.code for kind in error_classes()}
TIMEOUTS = {"connect": 10, "first_token": 8, "between_tokens": 8, "silence": 5 * PAUSE, "total": 10}
HANG = 90
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True)
class Ended:
    """How an answer ended: well, with this text, or in an error of this code."""

    text: str | None = None
    code: str = ""


def chat_whole(body: Any) -> str | None:
    content = body["choices"][0]["message"]["content"] if body["choices"] else ""
    return str(content or "")


def chat_stream(data: bytes) -> Ended:
    *pieces, last = events(data)
    assert b"[DONE]" not in pieces
    if last != b"[DONE]":
        return Ended(code=json.loads(last)["error"]["error_code"])
    chunks = [json.loads(piece) for piece in pieces if piece]
    assert not [one for one in chunks if "error" in one]
    deltas = [one["choices"][0].get("delta", {}) for one in chunks if one.get("choices")]
    said = [delta.get("content") for delta in deltas]
    return Ended("".join(text for text in said if isinstance(text, str)))


def responses_whole(body: Any) -> str | None:
    parts = [part for item in body["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(str(part.get("text", "")) for part in parts)


def responses_stream(data: bytes) -> Ended:
    kinds = [json.loads(one) for one in events(data) if one != b"[DONE]"]
    ends = [
        one for one in kinds if one["type"] in ("response.completed", "response.incomplete", "response.failed", "error")
    ]
    assert len(ends) == 1, ends
    assert kinds[-1] is ends[0]
    if ends[0]["type"] in ("response.completed", "response.incomplete"):
        return Ended(responses_whole(ends[0]["response"]))
    return Ended(code="INTERNAL_ERROR")


def messages_whole(body: Any) -> str | None:
    return "".join(part["text"] for part in body["content"] if part["type"] == "text")


def messages_stream(data: bytes) -> Ended:
    kinds = [json.loads(one) for one in events(data)]
    ends = [one for one in kinds if one["type"] in ("message_stop", "error")]
    assert len(ends) == 1, ends
    assert kinds[-1] is ends[0]
    if ends[0]["type"] == "error":
        return Ended(code="INTERNAL_ERROR")
    deltas = [one["delta"] for one in kinds if one["type"] == "content_block_delta"]
    return Ended("".join(delta["text"] for delta in deltas if delta["type"] == "text_delta"))


def ollama_stream(data: bytes) -> Ended:
    lines = [json.loads(line) for line in data.splitlines() if line]
    ends = [line for line in lines if "error" in line or line.get("done")]
    assert len(ends) == 1, ends
    assert lines[-1] is ends[0]
    if "error" in ends[0]:
        return Ended(code="INTERNAL_ERROR")
    return Ended("".join(line["message"]["content"] for line in lines))


def generate_stream(data: bytes) -> Ended:
    streamed = read_events(data)
    kind, last = streamed.end
    return Ended(streamed.text) if kind == "done" else Ended(code=last["error"]["code"])


@dataclass(frozen=True)
class Route:
    path: str
    body: dict[str, Any]
    whole: Callable[[Any], str | None]
    stream: Callable[[bytes], Ended]
    in_query: bool = False


ROUTES = {
    "generate": Route("/generate", {"prompt": "hi"}, lambda body: body["response"], generate_stream, in_query=True),
    "chat": Route("/v1/chat/completions", ASK, chat_whole, chat_stream),
    "responses": Route("/v1/responses", {"input": "hi"}, responses_whole, responses_stream),
    "messages": Route("/v1/messages", {**ASK, "max_tokens": 50}, messages_whole, messages_stream),
    "ollama": Route("/api/chat", ASK, lambda body: body["message"]["content"], ollama_stream),
}
CALLS = list(product(CASES, ROUTES, (False, True)))


@pytest.fixture(scope="module")
def odd() -> Iterator[OddUpstream]:
    with odd_upstream(
        {name: case.stream for name, case in CASES.items()}, {name: case.whole for name, case in CASES.items()}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def url(odd: OddUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    content = {
        "providers": {"main": {**provider(odd.base_url), "timeouts": TIMEOUTS}},
        "models": {called(*call): name(call[0]) for call in CALLS},
    }
    path: Path = routing_file(tmp_path_factory.mktemp("routing"), content)
    with serving_models(gateway_config=path, retry_attempts=1, auth="off") as base:
        yield base


def called(case: str, route: str, stream: bool) -> str:
    return f"{case}~{route}~{'streamed' if stream else 'whole'}"


def error_code(body: Any, response: httpx2.Response) -> str:
    """The code of an error in its audience's own shape, which all name the envelope's in some way."""
    error = body["error"]
    if isinstance(error, str):  # Ollama's
        assert error
        return str(body.get("code", "INTERNAL_ERROR"))
    assert error["message"]
    return str(error.get("error_code") or error.get("code") or "INTERNAL_ERROR")


def fault_of(client: httpx2.Client, url: str, port: int, call: tuple[str, str, bool]) -> str | None:
    """What is wrong with the answer to a call; None where nothing is."""
    case_name, route_name, stream = call
    case, route = CASES[case_name], ROUTES[route_name]
    body = {**route.body, "model": called(*call)}
    query = {"stream": stream} if route.in_query else {}
    if not route.in_query:
        body["stream"] = stream
    try:
        response = client.post(url + route.path, params=query, json=body)
    except httpx2.HTTPError as error:
        return f"no answer: {type(error).__name__}"
    everything = response.text + str(response.headers)
    leaks = [secret for secret in (f":{port}", "elsewhere", "Traceback", "site-packages") if secret in everything]
    if leaks:
        return f"leaks {leaks}: {everything[:300]}"
    try:
        if response.status_code != 200:
            ended = Ended(code=error_code(response.json(), response))
        elif stream:
            ended = route.stream(response.content)
        else:
            ended = Ended(route.whole(response.json()))
    except RecursionError:
        return None if case_name == "deep" else "nested too deep"  # it was passed on as it came
    except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
        return f"{response.status_code} is neither: {type(error).__name__} {error}: {response.text[-300:]}"
    if ended.code:
        return None if ended.code in CODES else f"an error without a code of ours: {response.text[:300]}"
    if case.must_fail or case_name in (BROKEN_STREAMS if stream else BROKEN_WHOLES):
        return f"ends well: {response.text[:300]}"
    if case.said is not None and ended.text != case.said:
        return f"says {ended.text!r}: {response.text[:300]}"
    return None


@pytest.mark.long
def test_every_odd_answer_is_a_whole_answer_or_one_error_on_every_route(url: str, odd: OddUpstream) -> None:
    with httpx2.Client(timeout=HANG) as client, ThreadPoolExecutor(16) as pool:
        faults = pool.map(lambda call: (called(*call), fault_of(client, url, odd.port, call)), CALLS)
        found = {call: fault for call, fault in faults if fault is not None}
    assert not found, "\n".join(f"{call}: {fault}" for call, fault in found.items())
    with httpx2.Client(timeout=HANG) as client:
        assert client.get(f"{url}/health").status_code == 200
