"""API_WORKERS: several processes of the API and one with the local model, as one service."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.src.http.peers import Peers
from apps.api.src.http.workers import Child, Restarts, Supervisor, children, shared_listeners
from apps.core.settings import Settings
from apps.local.encoders.embedder import missing_for_minilm
from apps.rag.index.database import missing_requirements as missing_index
from apps.tests.overheard import hearing_client
from apps.tests.support.processes import Running, running
from apps.tests.support.rag_serving import ingested
from apps.tests.support.serving import settings
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream, mock_upstream


def test_a_child_that_keeps_dying_is_given_up_and_one_that_was_well_is_not() -> None:
    restarts = Restarts()
    assert [restarts.pause(0.5) for _ in range(5)] == [0.1, 0.4, 1.6, 5.0, None]
    assert [Restarts().pause(60.0) for _ in range(9)] == [0.1] * 9


def test_a_key_belongs_to_one_worker(tmp_path: Path) -> None:
    one, two = Peers.of(f"0@{tmp_path}", 2), Peers.of(f"1@{tmp_path}", 2)
    assert one is not None and two is not None and Peers.of("", 2) is None
    owners = [one.owner(b"%d" % number) for number in range(200)]
    assert owners == [two.owner(b"%d" % number) for number in range(200)] and 60 < sum(owners) < 140


def test_workers_meet_in_a_folder_and_the_model_has_a_process(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        workers, model = children(settings(api_workers=2), tmp_path, [one, two])
        assert model is not None and model.environment["SERVE_ROLE"] == "model"
        assert [worker.environment["API_PEERS"] for worker in workers] == [f"0@{tmp_path}", f"1@{tmp_path}"]
        assert workers[0].environment["RATE_LIMIT_STORAGE"].startswith("file://")
        assert workers[1].descriptors == (two.fileno(),)
        elsewhere = settings(api_workers=2, local_url="http://models:8000", rate_limit_storage="redis://redis:6379")
        workers, model = children(elsewhere, tmp_path, [one, two])
        assert model is None and "RATE_LIMIT_STORAGE" not in workers[0].environment


def test_sockets_of_one_port_share_its_connections() -> None:
    listeners = shared_listeners("127.0.0.1", 0, 3)
    try:
        assert len({listener.getsockname() for listener in listeners}) == 1
        with pytest.raises(SystemExit, match="cannot be listened on"):
            shared_listeners("127.0.0.1", listeners[0].getsockname()[1], 1)
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.long
async def test_a_worker_that_cannot_be_started_ends_the_service_with_a_status() -> None:
    """Its share of the connections would wait for ever."""
    missing = Child("A worker", {}, command=("/no/such/program",))
    assert await Supervisor([missing], None, 0.5).run() == 1


def test_a_process_that_serves_a_fleet_on_a_port_needs_a_secret() -> None:
    with pytest.raises(ValueError, match="SERVE_ROLE"):
        settings(serve_role="model")
    with pytest.raises(ValueError, match="SERVE_ROLE"):
        settings(serve_role="model", api_uds="/run/model.sock", api_fd=5)
    assert settings(serve_role="model", api_uds="/run/genai.sock").fleet_secret.get_secret_value() == ""


LIMIT = 25


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=6) as mock:
        yield mock


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, upstream: MockUpstream) -> Iterator[Running]:
    changes = {
        "API_WORKERS": "2",
        "OPENAI_BASE_URL": upstream.base_url,
        "RATE_LIMIT_ENABLED": "true",
        "RATE_LIMIT_GENERATE": f"{LIMIT}/minute",
        "RATE_LIMIT_V1": "100000/minute",
        "RATE_LIMIT_RAG": "100000/minute",
        "RATE_LIMIT_LOCAL": "100000/minute",
        "LOCAL_MODEL": "packaged/none",
        "LOCAL_FALLBACK": "packaged",
        "MODEL_CACHE_DIR": str(Settings().model_cache_dir),
    }
    with running(tmp_path_factory.mktemp("workers"), **changes) as started:
        assert until(lambda: _answers(started.url))
        yield started


def _answers(url: str) -> bool:
    """New connections each, so that all workers are met."""
    return all(httpx2.get(f"{url}/healthz", timeout=90).status_code in (200, 429) for _ in range(4))


def _family(root: int) -> dict[int, str]:
    """The processes beneath one, and what their environment says they are."""
    found = {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((one / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == root:
                given = (one / "environ").read_text().split("\0")
                found[int(one.name)] = next((v[10:] for v in given if v.startswith("API_PEERS=")), "")
        except (OSError, ValueError):
            continue
    return found


def _chat(url: str, text: str, **headers: str) -> httpx2.Response:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    return httpx2.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=90)


@pytest.mark.long
def test_a_limit_is_one_for_all_workers(service: Running) -> None:
    statuses: list[int] = []

    def ask() -> None:
        for _ in range(10):
            answer = httpx2.post(f"{service.url}/generate", json={"prompt": "hi"}, timeout=90)
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert sorted(statuses) == [200] * LIMIT + [429] * (60 - LIMIT)


@pytest.mark.long
def test_a_call_with_an_idempotency_key_is_made_once_whichever_worker_it_meets(
    service: Running, upstream: MockUpstream
) -> None:
    answers: list[tuple[str, str]] = []

    def ask(key: str) -> None:
        answers.append((key, _chat(service.url, f"once {key}", **{"Idempotency-Key": key}).text))

    keys = [f"key-{number}" for number in range(6)]
    threads = [threading.Thread(target=ask, args=(key,)) for key in keys for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(answers) == 30 and len(set(answers)) == 6
    conflict = _chat(service.url, "something else", **{"Idempotency-Key": keys[0]})
    assert conflict.status_code == 409, conflict.text
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "streamed"}], "stream": True}
    streams = [
        httpx2.post(
            f"{service.url}/v1/chat/completions", json=body, headers={"Idempotency-Key": "stream"}, timeout=90
        ).text.partition(": receipt")[0]
        for _ in range(4)
    ]
    assert len(set(streams)) == 1 and '"finish_reason": "stop"' in streams[0]


@pytest.mark.long
@pytest.mark.local
def test_all_workers_ask_the_one_local_model(service: Running) -> None:
    def ready() -> bool:
        models = httpx2.get(f"{service.url}/ready", timeout=90).json()["models"]
        return any(m["route"] == "/local/generate" and m["status"] == "ready" for m in models)

    assert until(ready)
    body = {"prompt": "Say a word.", "max_tokens": 5, "temperature": 0}
    answers = [httpx2.post(f"{service.url}/local/generate", json=body, timeout=90) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    assert len({answer.json()["response"] for answer in answers}) == 1

    def chat_capacity() -> dict[str, Any]:
        told = httpx2.get(f"{service.url}/v1/capacity", timeout=90).json()["models"]
        found: dict[str, Any] = next(model for model in told if model["kind"] == "chat")
        return found

    chat = chat_capacity()
    assert chat["status"] == "ready" and chat["slots"] == 4
    # a worker that no call has needed the model of looks once a second
    assert until(lambda: chat_capacity()["steps"] > 0)
    asked = {"model": "all-MiniLM-L6-v2", "input": ["one", "two"]}
    # the first call loads the encoder, which takes its time beside other work
    vectors = httpx2.post(f"{service.url}/v1/embeddings", json=asked, timeout=150).json()
    assert [len(one["embedding"]) for one in vectors["data"]] == [384, 384]
    counted = httpx2.post(f"{service.url}/v1/tokenize", json={"model": chat["id"], "prompt": "one two"}, timeout=90)
    assert counted.json()["count"] >= 2


@pytest.mark.long
@pytest.mark.local
def test_the_encoder_is_loaded_once_whoever_asks_for_vectors(service: Running) -> None:
    """By search, ingestion and /v1/embeddings, in both workers: counted by what the processes log and have mapped."""
    if missing := [*missing_for_minilm(), *missing_index()]:
        pytest.skip(f"needs requirements-local.txt: {', '.join(missing)}")
    collection = f"{service.url}/rag/collections/words"
    with hearing_client(timeout=150) as http:
        texts = [{"name": f"{number}.txt", "text": f"Door {number} is {number} meters wide."} for number in range(8)]
        job = ingested(http, collection, *texts)
        assert (job["status"], job["passages"]) == ("done", 8), job
    for number in range(8):
        # a connection each, so that both workers are met
        body = {"model": "all-MiniLM-L6-v2", "input": f"number {number}"}
        assert httpx2.post(f"{service.url}/v1/embeddings", json=body, timeout=90).status_code == 200
        found = httpx2.post(f"{collection}/query", json={"query": f"How wide is door {number}?"}, timeout=90)
        assert found.json()["passages"][0]["vector_score"] > 0, found.text
    assert service.log.read_text().count("all-MiniLM-L6-v2 is loaded") == 1
    with_torch = [
        pid for pid in _family(service.process.pid) if "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()
    ]
    assert [_family(service.process.pid)[pid] for pid in with_torch] == [""], "workers need no torch"


@pytest.mark.long
def test_a_worker_that_is_killed_comes_back_and_nobody_is_refused(service: Running) -> None:
    workers = {pid for pid, peers in _family(service.process.pid).items() if peers}
    assert len(workers) == 2
    statuses: list[int | str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                statuses.append(_chat(service.url, "hello").status_code)
            except httpx2.TransportError as error:
                statuses.append(type(error).__name__)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    assert until(
        lambda: len(now := {p for p, w in _family(service.process.pid).items() if w}) == 2 and victim not in now
    )
    assert until(lambda: _answers(service.url))
    assert until(lambda: statuses.count(200) > 10)
    over.set()
    for thread in threads:
        thread.join(90)
    # calls on the killed process's own connections are cut, and no connection is refused
    assert len([status for status in statuses if status != 200]) <= 4 and "ConnectError" not in statuses


@pytest.mark.long
def test_sigterm_ends_all_of_them(service: Running) -> None:
    """The last test of the service."""
    children = set(_family(service.process.pid))
    assert len(children) == 3
    service.terminate()
    service.process.wait(90)
    assert service.process.returncode == 0
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
