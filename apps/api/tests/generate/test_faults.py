"""The fault matrix: every way in which an upstream fails, streamed and not, ends as the contract says.

Never a 200 that hides a cut, and exactly as many calls of the upstream as the contract counts.
"""

import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from apps.models.upstream_errors import OPENAI_URL
from apps.tests.support.faults import FAULTS, READ_TIMEOUT, Fault
from apps.tests.support.reading import JSON, checked, envelope, read_events
from apps.tests.support.serving import serving_models, upstream_at
from eval.mock_upstream import MockUpstream


@pytest.fixture(scope="module")
def url(mock: MockUpstream) -> Iterator[str]:
    with serving_models(**upstream_at(mock.base_url, read_timeout=READ_TIMEOUT)) as base:
        yield base


def check(error: dict[str, Any], fault: Fault) -> None:
    assert error["code"] == fault.code
    assert dict(fault.details).items() <= error["details"].items()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.model)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_fault_is_a_typed_error(
    fault: Fault, stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi", "model": fault.model})
    if stream and fault.begun:
        assert response.status_code == 200
        streamed = read_events(response.content)
        kind, body = streamed.end
        assert kind == "error"
        assert streamed.text == "the quick brown "
        check(checked(body, fault.status), fault)
    else:
        assert response.status_code == fault.status
        check(envelope(response), fault)
    assert mock.stats()["requests"] == fault.calls
    assert "sk-marked" not in response.text
    assert str(mock.port) not in response.text


@pytest.mark.parametrize("model", [fault.model for fault in FAULTS if fault.begun])
def test_bare_text_that_fails_is_an_aborted_connection(model: str, url: str, http: httpx2.Client) -> None:
    headers = {"Accept": "text/plain"}
    text = ""
    with (
        http.stream("POST", f"{url}/generate?stream=true", json={"prompt": "hi", "model": model}, headers=headers) as r,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        for part in r.iter_text():
            text += part
    assert text == "the quick brown "


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_recovers_in_time_is_an_answer(
    stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi", "model": "flaky-2"})
    assert response.status_code == 200
    text = read_events(response.content).text if stream else response.json()["response"]
    assert text == "the quick brown fox jumps over "
    assert mock.stats()["requests"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_429_of_the_upstream_keeps_its_retry_after(stream: bool, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi", "model": "fault-429-7"})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")


def test_the_retry_after_of_a_5xx_is_handed_on(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    mock.reset()
    response = http.post(f"{url}/generate", json={"prompt": "hi", "model": "fault-503-1"})
    assert (response.status_code, response.headers["Retry-After"]) == (500, "1")
    assert mock.stats()["requests"] == 3


def test_a_long_answer_is_not_killed_while_it_flows(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    mock.reset()
    response = http.post(f"{url}/generate", json={"prompt": "hi", "model": "slow-200"})
    assert response.status_code == 200
    assert response.json()["response"] == "the quick brown fox jumps over "
    stats = mock.stats()
    assert stats["requests"] == 1
    assert stats["waited"] > 2 * READ_TIMEOUT


def test_nothing_of_all_this_leaves_a_call_open(mock: MockUpstream) -> None:
    assert mock.stats()["open"] == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["refused", "no-such-name"])
def test_an_upstream_that_cannot_be_reached(where: str, stream: bool, http: httpx2.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}/v1" if where == "refused" else "http://no-such-host.invalid/v1"
    with serving_models(**upstream_at(base_url)) as url:
        response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi"})
    error = envelope(response)
    assert (response.status_code, error["code"]) == (500, "INTERNAL_ERROR")
    assert error["details"] == {"attempts": 3, "cause": "network error"}
    assert "invalid" not in response.text
    assert str(port) not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_key_the_route_says_what_to_do(stream: bool, http: httpx2.Client) -> None:
    with serving_models(openai_base_url=OPENAI_URL, openai_api_key="") as url:
        response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi"}, headers=JSON)
    error = envelope(response)
    assert (response.status_code, error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert "OPENAI_API_KEY" in error["message"]
    assert int(response.headers["Retry-After"]) > 0
