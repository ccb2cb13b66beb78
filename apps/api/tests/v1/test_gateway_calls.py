"""Calls through /v1 as their callers see them: bytes that pass through, receipts, deadlines, and clients that leave."""

import json
import random
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest

from apps.models.scripted import ScriptedModel, saying
from apps.tests.marks import marked
from apps.tests.support.reading import connect, post, read_to_end, receipt_in
from apps.tests.support.routing import ASK, HEALTHY, events, name, provider, routing_file
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

CHAT = "/v1/chat/completions"
PRICES = {HEALTHY: {"input": 1.0, "output": 2.0}}
# an upstream that never answers is left by its caller alone
PATIENT = {"connect": 60, "first_token": 3600, "between_tokens": 3600, "total": 3600}
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def url(mock: MockUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    content = {
        "providers": {
            "main": provider(mock.base_url, prices=PRICES),
            "narrow": provider(mock.base_url, max_concurrency=1, queue_size=50, timeouts=PATIENT),
            "queued": provider(mock.base_url, max_concurrency=1, queue_size=50, timeouts=PATIENT),
        },
        "models": {
            HEALTHY: name(HEALTHY),
            "alias": name(HEALTHY),
            "slow-300": name("slow-300", "narrow"),
            "slow-3600000": name("slow-3600000", "narrow"),
            "never": name("fault-hang", "narrow"),
            "slow-2000": name("slow-2000", "queued"),
            "holds": name("fault-hang", "queued"),
            "stalls": name("fault-stall", "narrow"),
            "able": {"targets": [{"provider": "main", "model": HEALTHY, "tools": False, "context": 1000}]},
        },
        "default_provider": "main",
    }
    with serving_models(gateway_config=routing_file(tmp_path_factory.mktemp("routing"), content)) as base:
        yield base


def test_the_bytes_of_both_sides_pass_as_they_are(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    body = '{ "model":"gpt-4o-mini",\n "messages":[{"role":"user","content":"\\u00fc 🎉"}],"future":{"x":[1.50]}}'
    ours = http.post(url + CHAT, content=body.encode(), headers={"Content-Type": "application/json"})
    assert mock.stats()["last_body"] == json.loads(body)
    direct = http.post(f"{mock.base_url}/chat/completions", content=body.encode())
    assert ours.content == direct.content


def test_a_streams_bytes_pass_as_they_are_but_for_the_receipt(
    url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    body = {"model": HEALTHY, "stream": True, "stream_options": {"include_usage": True}, **ASK}
    ours = http.post(url + CHAT, json=body).content
    assert events(ours) == events(http.post(f"{mock.base_url}/chat/completions", json=body).content)


def test_another_name_is_all_that_changes_for_the_target(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    http.post(url + CHAT, json={"model": "alias", "future": 1, **ASK})
    assert mock.stats()["last_body"] == {"model": HEALTHY, "future": 1, **ASK}


def test_a_callers_credentials_and_cookies_stay_here(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    http.post(url + CHAT, json={"model": HEALTHY, **ASK}, headers={"Authorization": "Bearer mine", "Cookie": "a=b"})
    sent = mock.stats()["last_headers"]
    assert sent["authorization"] == "Bearer " + marked("provider's key")
    assert "cookie" not in sent


def test_the_headers_are_a_receipt(url: str, http: httpx2.Client) -> None:
    headers = http.post(url + CHAT, json={"model": "alias", **ASK}).headers
    assert (headers["X-Model"], headers["X-Provider"]) == (HEALTHY, "main")
    assert (headers["X-Attempts"], headers["X-Cache"]) == ("1", "miss")
    assert float(headers["X-Queue-Ms"]) >= 0
    assert (headers["X-Prompt-Tokens"], headers["X-Completion-Tokens"]) == ("9", "6")
    assert float(headers["X-Cost-USD"]) == pytest.approx((9 * 1 + 6 * 2) / 1e6)


def test_a_stream_has_what_is_known_first_in_headers_and_all_of_it_at_its_end(url: str, http: httpx2.Client) -> None:
    body = {"model": "alias", "stream": True, "stream_options": {"include_usage": True}, **ASK}
    answer = http.post(url + CHAT, json=body)
    assert (answer.headers["X-Model"], answer.headers["X-Provider"]) == (HEALTHY, "main")
    assert float(answer.headers["X-First-Token-Ms"]) > 0
    receipt = receipt_in(answer.content)
    assert (receipt["tried"], receipt["boundary"]) == (["main/gpt-4o-mini"], "machine")
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (9, 6)
    assert receipt["cost"] == pytest.approx(21e-6)
    assert isinstance(receipt["first_token"], float)


def test_what_is_not_known_is_not_told(url: str, http: httpx2.Client) -> None:
    answer = http.post(url + CHAT, json={"model": "unpriced", **ASK})
    assert "X-Cost-USD" not in answer.headers
    assert receipt_in(http.post(url + CHAT, json={"model": "x", "stream": True, **ASK}).content)["cost"] is None


@both_ways
def test_the_local_model_is_named_as_it_names_itself(stream: bool, http: httpx2.Client) -> None:
    with serving_models(local=ScriptedModel(saying("x"), name="my-own")) as base:
        answer = http.post(base + CHAT, json={"model": "my-own", "stream": stream, **ASK})
    assert (answer.status_code, answer.headers["X-Model"], answer.headers["X-Provider"]) == (200, "my-own", "local")


@both_ways
def test_a_target_that_lacks_what_is_asked_for_is_not_asked(
    stream: bool, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    for body in ({"tools": [{"type": "function"}]}, {"max_tokens": 5000}):
        answer = http.post(url + CHAT, json={"model": "able", "stream": stream, **ASK, **body})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "model")
    assert mock.stats()["requests"] == 0


@both_ways
@pytest.mark.parametrize("value", ["-1", "1.5", "soon", "", "1e3", "9999999999"])
def test_a_deadline_that_is_none_is_refused(value: str, stream: bool, url: str, http: httpx2.Client) -> None:
    answer = http.post(url + CHAT, json={"model": HEALTHY, "stream": stream, **ASK}, headers={"X-Deadline-Ms": value})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "X-Deadline-Ms")


@both_ways
def test_a_deadline_that_is_over_costs_nothing(stream: bool, url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    mock.reset()
    answer = http.post(url + CHAT, json={"model": HEALTHY, "stream": stream, **ASK}, headers={"X-Deadline-Ms": "0"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "TIMEOUT")
    assert mock.stats()["requests"] == 0


def test_a_stream_that_outlasts_its_deadline_ends_in_an_error(url: str, http: httpx2.Client) -> None:
    """What it waits for never comes."""
    body = {"model": "stalls", "stream": True, **ASK}
    answer = http.post(url + CHAT, json=body, headers={"X-Deadline-Ms": "350"})
    assert json.loads(events(answer.content)[-1])["error"]["code"] == "TIMEOUT"
    assert b"[DONE]" not in answer.content


def test_a_deadline_that_the_queue_cannot_meet_is_refused_before_it_is_over(
    url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    """The call that is served never ends: a call that waited out its deadline would be a TIMEOUT."""
    body = {"model": "slow-2000", **ASK}
    assert http.post(url + CHAT, json=body).status_code == 200  # now it is known how long one takes
    with connect(url) as served:
        served.sendall(post(CHAT, json.dumps({"model": "holds", **ASK}).encode()))
        assert until(lambda: mock.stats()["open"] == 1)
        answer = http.post(url + CHAT, json=body, headers={"X-Deadline-Ms": "1900"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "OVERLOADED")
    assert int(answer.headers["Retry-After"]) >= 1
    assert until(lambda: mock.stats()["open"] == 0)


@both_ways
@pytest.mark.parametrize("model", ["never", "slow-3600000"])
def test_a_client_that_leaves_ends_the_upstreams_call(model: str, stream: bool, url: str, mock: MockUpstream) -> None:
    assert until(lambda: mock.stats()["open"] == 0)
    connection = connect(url)
    connection.sendall(post(CHAT, json.dumps({"model": model, "stream": stream, **ASK}).encode()))
    assert until(lambda: mock.stats()["open"] == 1)
    connection.close()
    assert until(lambda: mock.stats()["open"] == 0)


@pytest.mark.long
def test_a_hundred_clients_cut_at_random_leave_nothing_behind(url: str, mock: MockUpstream) -> None:
    chance = random.Random(7)

    def cut(stream: bool, after: float) -> None:
        with connect(url) as connection:
            connection.sendall(post(CHAT, json.dumps({"model": "slow-40", "stream": stream, **ASK}).encode()))
            time.sleep(after)

    threads = [threading.Thread(target=cut, args=(i % 2 == 0, chance.random() * 0.4)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert until(lambda: mock.stats()["open"] == 0)
    assert httpx2.post(url + CHAT, json={"model": HEALTHY, **ASK}, timeout=90).status_code == 200


def test_a_route_is_explained_without_spending(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    mock.reset()
    explained = http.get(f"{url}/v1/route", params={"model": "able", "tokens": 10}).json()
    assert [entry["target"] for entry in explained["order"]] == ["main/gpt-4o-mini"]
    assert explained["strategy"] == "ordered"
    refused = http.get(f"{url}/v1/route", params={"model": "able", "tools": True})
    assert (refused.status_code, refused.json()["error"]["details"]["lacking"]) == (400, ["tools"])
    assert mock.stats()["requests"] == 0


def test_keep_alive_after_a_stream_saves_the_next_connection(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    assert until(lambda: mock.stats()["open"] == 0)
    for _ in range(20):
        http.post(url + CHAT, json={"model": HEALTHY, "stream": True, **ASK})
    before = mock.stats()["connections"]
    for _ in range(20):
        http.post(url + CHAT, json={"model": HEALTHY, "stream": True, **ASK})
    assert mock.stats()["connections"] <= before


def test_an_answer_that_is_read_to_its_end_is_whole(url: str) -> None:
    with connect(url) as connection:
        request = post(CHAT, json.dumps({"model": HEALTHY, "stream": True, **ASK}).encode(), "Connection: close")
        connection.sendall(request)
        assert read_to_end(connection).endswith(b"0\r\n\r\n")
