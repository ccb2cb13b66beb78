"""A gateway in front of replicas: real sockets between them, and replicas that die, drain, fill up and freeze."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.src.auth.authentication import TENANT
from apps.core.errors import ModelUnavailable
from apps.local.tests.fakes import EchoEngine
from apps.tests.marks import marked
from apps.tests.support.fleet import ServedReplica, fleet_file, serving_replica
from apps.tests.support.ports import free_port
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until

SECRET = marked("FLEET_SECRET of tests")


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[ServedReplica]]:
    with serving_replica(fleet_secret=SECRET) as one, serving_replica(fleet_secret=SECRET) as two:
        yield [one, two]


@pytest.fixture(scope="module")
def gateway(replicas: list[ServedReplica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = fleet_file(tmp_path_factory.mktemp("fleet"), *(replica.url for replica in replicas))
    with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
        yield url


def ask(http: httpx2.Client, url: str, text: str = "hello", **fields: Any) -> httpx2.Response:
    body = {"model": "fleet", "messages": [{"role": "user", "content": text}], "max_tokens": 200, **fields}
    return http.post(f"{url}/v1/chat/completions", json=body)


def said(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_a_replica_is_for_those_who_know_the_secret(http: httpx2.Client, replicas: list[ServedReplica]) -> None:
    url = replicas[0].url
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": SECRET[:-1]}):
        assert http.get(f"{url}/v1/capacity", headers=headers).status_code == 401
        assert http.post(f"{url}/v1/chat/completions", json={}, headers=headers).status_code == 401
    assert http.get(f"{url}/health").status_code == 200
    known = {"Authorization": f"Bearer {SECRET}"}
    assert http.get(f"{url}/v1/capacity", headers=known).json()["models"][0]["id"] == "echo"
    # what gateways are for is not here
    for path in ("/generate", "/admin/keys", "/rag/collections", "/mcp", "/console/", "/docs"):
        assert http.get(f"{url}{path}", headers=known).status_code in (404, 200 if path == "/docs" else 404)


def test_a_call_is_answered_by_a_replica(http: httpx2.Client, gateway: str) -> None:
    answer = ask(http, gateway, "over there")
    assert said(answer) == "over there"
    assert (answer.headers["x-model"], answer.headers["x-provider"]) == ("echo", "replicas")
    assert answer.json()["usage"]["completion_tokens"] == 10
    streamed = ask(http, gateway, "over there", stream=True)
    pieces = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(c["delta"].get("content") or "" for piece in pieces for c in piece["choices"]) == "over there"


def test_other_ways_of_asking_lead_there_too(http: httpx2.Client, gateway: str) -> None:
    prompt = {"model": "fleet", "prompt": "bare", "max_tokens": 9}
    assert http.post(f"{gateway}/v1/completions", json=prompt).json()["choices"][0]["text"] == "bare"
    message = {"model": "fleet", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    assert http.post(f"{gateway}/v1/messages", json=message).json()["content"][0]["text"] == "hi"
    generated = http.post(f"{gateway}/generate", json={"prompt": "hey", "model": "fleet", "max_tokens": 9})
    assert generated.status_code == 200 and generated.json()["response"] == "hey"
    tokens = http.post(f"{gateway}/v1/tokenize", json={"model": "fleet", "prompt": "abc"}).json()
    assert tokens["tokens"] == [97, 98, 99]
    assert http.post(f"{gateway}/v1/detokenize", json={"model": "fleet", "tokens": [97, 98]}).json()["prompt"] == "ab"


def test_an_error_of_a_replica_is_the_services_own(http: httpx2.Client, gateway: str) -> None:
    refused = ask(http, gateway, "hello", max_tokens=9999)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["error_code"]) == ("context_length_exceeded", "INVALID_VALUE")
    assert error["details"]["context_length"] == 4096
    assert ask(http, gateway, top_k=-5).json()["error"]["param"] == "top_k"


def test_a_conversation_stays_with_its_replica_and_conversations_spread(
    http: httpx2.Client, gateway: str, replicas: list[ServedReplica]
) -> None:
    seen: dict[str, set[int]] = {}
    for _ in range(2):
        for number in range(8):
            before = [len(replica.engine.samplings) for replica in replicas]
            said(ask(http, gateway, f"conversation {number}"))
            (where,) = [i for i, r in enumerate(replicas) if len(r.engine.samplings) > before[i]]
            seen.setdefault(str(number), set()).add(where)
    assert all(len(places) == 1 for places in seen.values()) and len(set.union(*seen.values())) == 2


def test_the_tenant_of_a_call_is_the_one_that_the_gateway_names(replicas: list[ServedReplica]) -> None:
    headers = {"Authorization": f"Bearer {SECRET}", TENANT.decode(): "caf%C3%A9"}
    body = {"model": "local", "messages": [{"role": "user", "content": "hi"}]}
    httpx2.post(f"{replicas[0].url}/v1/chat/completions", json=body, headers=headers, timeout=90)
    assert replicas[0].engine.samplings[-1].tenant == "café"


class HeldEngine(EchoEngine):
    """Says the first half, and the rest when it is let go."""

    def __init__(self) -> None:
        super().__init__(context_length=4096, delay=0.001)
        self.go = threading.Event()

    async def generate(self, prompt: Any, sampling: Any) -> Any:

        async for output in super().generate(prompt, sampling):
            yield output
            while not self.go.is_set():  # noqa: ASYNC110 - set by the test's thread
                await asyncio.sleep(0.005)


def test_one_that_is_gone_is_passed_over_at_once(http: httpx2.Client, tmp_path: Path) -> None:
    with serving_replica(fleet_secret=SECRET) as left:
        file = fleet_file(tmp_path, f"http://127.0.0.1:{free_port()}", left.url)
        with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
            for number in range(10):
                assert said(ask(http, url, f"call {number}")) == f"call {number}"


def test_a_wrong_secret_or_no_replica_is_told_with_when_to_come_back(http: httpx2.Client, tmp_path: Path) -> None:
    with serving_replica(fleet_secret=SECRET) as replica:
        file = fleet_file(tmp_path, replica.url)
        with serving_models(gateway_config=file, fleet_secret=marked("FLEET_SECRET that is wrong")) as url:
            refused = ask(http, url)
            assert refused.status_code == 503 and "FLEET_SECRET" in refused.json()["error"]["message"]
            assert int(refused.headers["Retry-After"]) >= 1


def test_a_full_replicas_wait_is_the_callers_retry_after(http: httpx2.Client, tmp_path: Path) -> None:
    engine = HeldEngine()
    with serving_replica(engine, fleet_secret=SECRET, local_slots=1, local_queue_size=0) as replica:
        replica.model.admission._durations.append(7.0)
        with serving_models(gateway_config=fleet_file(tmp_path, replica.url), fleet_secret=SECRET) as url:
            running = threading.Thread(target=ask, args=(http, url))
            running.start()
            assert until(lambda: replica.model.admission.running == 1)
            refused = ask(http, url)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
            assert refused.json()["error"]["code"] == ModelUnavailable.code or "busy" in refused.text
            engine.go.set()
            running.join(90)


def test_one_that_drains_gets_no_new_calls_and_ends_what_it_has(http: httpx2.Client, tmp_path: Path) -> None:
    engine = HeldEngine()
    with serving_replica(engine, fleet_secret=SECRET) as draining:
        file = fleet_file(tmp_path, draining.url)
        with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
            answers: list[httpx2.Response] = []
            running = threading.Thread(target=lambda: answers.append(ask(http, url, "to the end")))
            running.start()
            assert until(lambda: draining.model.admission.running == 1)
            draining.app.state.shutdown.draining = True

            def is_out() -> bool:
                status = httpx2.get(f"{url}/v1/models", timeout=90).json()["data"]
                return any("shutting down" in model["reason"] for model in status if model["id"] == "fleet")

            assert until(is_out)
            assert ask(http, url).status_code == 503
            engine.go.set()
            running.join(90)
            assert said(answers[0]) == "to the end"


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_a_replica_has_no_pages(path: str, replicas: list[ServedReplica], http: httpx2.Client) -> None:
    answer = http.get(replicas[0].url + path, headers={"Authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "NOT_FOUND"
