"""The mock's whole fault matrix on /v1: alone and with a healthy fallback, streamed and not.

Nothing is executed again after a first delta; the fallback's answer wherever one is allowed; a stream that fails midway
ends in an error chunk and without [DONE]; a deadline ends what would be waited for without an end.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.routing import ASK, HEALTHY, TIMEOUTS, events, name, provider, routing_file
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream, mock_upstream


@dataclass(frozen=True)
class Fault:
    """``calls`` of the upstream where it stands alone; ``fallback``: another may answer; ``begun``: after a delta."""

    model: str
    status: int
    code: str
    calls: int = 1
    fallback: bool = True
    begun: bool = False
    whole_calls: int = 0


FAULTS = [
    *[Fault(f"fault-{status}", status, "UPSTREAM_ERROR", fallback=False) for status in (400, 413, 422)],
    *[Fault(f"fault-{status}", 502, "UPSTREAM_ERROR") for status in (401, 402, 403, 408, 409)],
    # the caller named it by the upstream's own name
    Fault("fault-404", 404, "UPSTREAM_ERROR"),
    *[Fault(f"fault-{status}", 500, "INTERNAL_ERROR", 3) for status in (500, 502, 503, 504, 529)],
    Fault("fault-429", 429, "RATE_LIMIT_EXCEEDED"),
    Fault("fault-503-0", 500, "INTERNAL_ERROR", 3),
    Fault("fault-hang", 504, "TIMEOUT", 3, whole_calls=1),
    Fault("fault-rst", 500, "INTERNAL_ERROR", 3),
    Fault("fault-200error", 502, "UPSTREAM_ERROR"),
    Fault("flaky-5", 500, "INTERNAL_ERROR", 3),
    Fault("fault-cut", 502, "UPSTREAM_ERROR", begun=True),
    Fault("fault-stall", 504, "TIMEOUT", begun=True),
    Fault("fault-badjson", 502, "UPSTREAM_ERROR", begun=True),
    Fault("fault-error", 502, "UPSTREAM_ERROR", begun=True),
    Fault("fault-nofinish", 502, "UPSTREAM_ERROR", begun=True),
]
by_name = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.model)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
# none of these ends a call within the time of a test
ENDLESS = dict.fromkeys(TIMEOUTS, 3600)
SILENT = [fault for fault in FAULTS if fault.code == "TIMEOUT"]


@pytest.fixture(scope="module")
def backup() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=4) as running:
        yield running


@pytest.fixture(scope="module")
def url(mock: MockUpstream, backup: MockUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    content = {
        "providers": {
            "main": provider(mock.base_url),
            "backup": provider(backup.base_url),
            "endless": {**provider(mock.base_url), "timeouts": ENDLESS},
        },
        "models": {
            "healthy": name(HEALTHY, "backup"),
            "flaky-2": name("flaky-2"),
            **{fault.model: name(fault.model) for fault in FAULTS},
            **{f"safe-{fault.model}": name(fault.model, fallbacks=["healthy"]) for fault in FAULTS},
            **{f"endless-{fault.model}": name(fault.model, "endless") for fault in SILENT},
        },
    }
    path: Path = routing_file(tmp_path_factory.mktemp("routing"), content)
    with serving_models(gateway_config=path, retry_backoff=0.05, default_model="healthy") as base:
        yield base


def ask(http: httpx2.Client, url: str, model: str, stream: bool, **headers: str) -> httpx2.Response:
    return http.post(f"{url}/v1/chat/completions", json={"model": model, "stream": stream, **ASK}, headers=headers)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert {"code", "message", "status", "field", "details", "type", "param", "error_code"} <= set(error)
    assert error["status"] == response.status_code
    return error


@by_name
@both_ways
def test_alone_it_is_a_typed_error(
    fault: Fault, stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    response = ask(http, url, fault.model, stream)
    assert str(mock.port) not in response.text
    if stream and fault.begun:
        assert response.status_code == 200
        *deltas, last = events(response.content)
        assert b"[DONE]" not in response.content
        assert "".join(json.loads(delta)["choices"][0]["delta"]["content"] for delta in deltas) == "the quick brown "
        error = json.loads(last)["error"]
    else:
        error = error_of(response)
        assert response.status_code == fault.status
    assert (error["error_code"], error["status"]) == (fault.code, fault.status)
    assert mock.stats()["requests"] == (fault.calls if stream or not fault.whole_calls else fault.whole_calls)


@by_name
@both_ways
@pytest.mark.long
def test_with_a_fallback_its_answer_comes_wherever_it_may(
    fault: Fault, stream: bool, url: str, mock: MockUpstream, backup: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    backup.reset()
    response = ask(http, url, f"safe-{fault.model}", stream)
    executed_after_a_delta = stream and fault.begun
    if executed_after_a_delta or not fault.fallback:
        assert backup.stats()["requests"] == 0
        assert fault.code in response.text
        assert b"[DONE]" not in response.content
        return
    assert response.status_code == 200
    assert (response.headers["X-Provider"], response.headers["X-Attempts"]) == ("backup", "2")
    assert (mock.stats()["requests"], backup.stats()["requests"]) == (1, 1)
    if stream:
        *_, last, done = events(response.content)
        assert done == b"[DONE]"
        assert json.loads(last)["choices"][0]["finish_reason"] == "stop"
    else:
        assert response.json()["choices"][0]["message"]["content"] == "the quick brown fox "


@pytest.mark.parametrize("fault", SILENT, ids=lambda fault: fault.model)
@both_ways
def test_a_deadline_ends_what_would_have_no_end(
    fault: Fault, stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    response = ask(http, url, f"endless-{fault.model}", stream, **{"X-Deadline-Ms": "300"})
    error = json.loads(events(response.content)[-1])["error"] if stream and fault.begun else error_of(response)
    assert (error["error_code"], error["status"]) == ("TIMEOUT", 504)
    assert mock.stats()["requests"] == 1


@by_name
@both_ways
@pytest.mark.long
def test_generate_knows_the_same_names_and_falls_back_alike(
    fault: Fault, stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    response = http.post(
        f"{url}/generate", params={"stream": stream}, json={"prompt": "hi", "model": f"safe-{fault.model}"}
    )
    if fault.begun or not fault.fallback:  # /generate always streams from the upstream
        assert fault.code in response.text
    else:
        assert response.status_code == 200
        assert response.headers["X-Model"] == HEALTHY


@both_ways
def test_generate_has_the_default_model_and_no_unknown_one(stream: bool, url: str, http: httpx2.Client) -> None:
    assert http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi"}).status_code == 200
    response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi", "model": "nobody"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["field"]) == ("NOT_FOUND", "model")


@both_ways
def test_an_upstream_that_recovers_in_time_is_an_answer(
    stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    response = ask(http, url, "flaky-2", stream)
    assert response.status_code == 200
    assert (response.headers["X-Provider"], response.headers["X-Attempts"]) == ("main", "3")


def test_nothing_of_all_this_leaves_a_call_open(mock: MockUpstream, backup: MockUpstream) -> None:
    assert until(lambda: not mock.stats()["open"] and not backup.stats()["open"])
