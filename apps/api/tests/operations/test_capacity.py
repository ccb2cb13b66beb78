"""GET /v1/capacity: what the local model can take, from the one queue that its calls stand in."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import httpx2
import pytest

from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded, LoadFailed
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoTokenizer
from apps.models.capacity import Capacity
from apps.tests.support.serving import serving_models, settings


class HeldEngine(EchoEngine):
    """Answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    async def generate(self, prompt: Any, sampling: Any) -> Any:
        while not self.go.is_set():  # noqa: ASYNC110 - set by the test's thread
            await asyncio.sleep(0.005)
        async for output in super().generate(prompt, sampling):
            yield output


def _model(engine: EchoEngine) -> LocalModel:
    def load(settings: Settings, report: Report) -> Loaded:
        return Loaded("echo", engine, EchoTokenizer())

    # each look at the clock is a tenth of a second later, so that what answers take is measured on any machine
    return LocalModel(settings(), load, clock=partial(next, count(0.0, 0.1)))


@pytest.fixture
def engine() -> Iterator[HeldEngine]:
    made = HeldEngine()
    yield made
    made.go.set()


def _capacity(http: httpx2.Client, url: str) -> Any:
    answer = http.get(f"{url}/v1/capacity")
    assert answer.status_code == 200
    Capacity.model_validate_json(answer.content)
    chat = [model for model in answer.json()["models"] if model["kind"] == "chat"]
    return {**chat[0], "draining": answer.json()["draining"]}


def _until(http: httpx2.Client, url: str, **wanted: object) -> dict[str, Any]:
    for _ in range(3_000):
        seen = _capacity(http, url)
        if wanted.items() <= seen.items():
            return dict(seen)
        threading.Event().wait(0.02)
    raise AssertionError(seen)


def test_it_counts_those_who_run_and_wait_and_measures_what_they_get(http: httpx2.Client, engine: HeldEngine) -> None:
    with serving_models(local=_model(engine), local_slots=1, rate_limit_enabled=True) as url:
        idle = _until(http, url, status="ready")
        assert (idle["id"], idle["slots"], idle["running"], idle["waiting"], idle["context"]) == ("echo", 1, 0, 0, 100)
        assert "tokens_per_second" not in idle and idle["steps"] == 0 and idle["draining"] is False

        def ask() -> None:
            assert (
                httpx2.post(f"{url}/local/generate", json={"prompt": "hello", "max_tokens": 50}, timeout=90).status_code
                == 200
            )

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        _until(http, url, running=1, waiting=2)
        engine.go.set()
        for thread in threads:
            thread.join(90)
        done = _until(http, url, running=0, waiting=0)
        assert done["steps"] == 15 and done["tokens_per_second"] > 0


def test_a_full_queue_answers_with_the_wait_that_capacity_predicts(http: httpx2.Client, engine: HeldEngine) -> None:
    model = _model(engine)
    with serving_models(local=model, local_slots=1, local_queue_size=0) as url:
        _until(http, url, status="ready")
        # a call of seven seconds has been measured
        model.admission._durations.append(7.0)
        held = {"json": {"prompt": "a", "max_tokens": 50}, "timeout": 90}
        running = threading.Thread(target=httpx2.post, args=(f"{url}/local/generate",), kwargs=held)
        running.start()
        predicted = _until(http, url, running=1)["predicted_wait"]
        refused = http.post(f"{url}/local/generate", json={"prompt": "b", "max_tokens": 50})
        assert (refused.status_code, refused.headers["Retry-After"], predicted) == (503, "7", 7.0)
        engine.go.set()
        running.join(90)


async def test_a_model_that_cannot_answer_is_asked_again_after_as_long_as_it_could_not() -> None:
    now = [100.0]

    def load(settings: Settings, report: Report) -> Loaded:
        raise LoadFailed("there is nothing")

    model = LocalModel(settings(), load, clock=lambda: now[0])
    await model.start()
    await model.settled()
    seen = []
    for seconds in (0.0, 12.0, 4000.0):
        now[0] = 100.0 + seconds
        seen.append(model.readiness().retry_after)
    assert seen == [1.0, 12.0, 60.0] and model.capacity().status == "failed"
    await model.aclose()
