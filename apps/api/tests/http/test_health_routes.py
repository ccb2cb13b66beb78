"""Alive whatever the models do; ready only when they are, with the reason for each."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from apps.core.ports import Readiness, State
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.reading import envelope
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream


class StatefulModel(ScriptedModel):
    """Has the state that a test gives it."""

    def __init__(self, name: str) -> None:
        super().__init__(saying("x"), name=name)
        self.state: State = "ready"

    def readiness(self) -> Readiness:
        return Readiness(super().readiness().name, self.state, "scripted")


CLOUD, LOCAL = StatefulModel("c"), StatefulModel("l")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models(cloud=CLOUD, local=LOCAL) as base:
        yield base


def asked(http: httpx2.Client, url: str) -> tuple[int, dict[str, Any]]:
    for path in ("/health", "/healthz"):
        answer = http.get(url + path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    ready = http.get(f"{url}/ready")
    if ready.status_code != 200:
        error = envelope(ready)
        assert (error["code"], error["status"]) == ("MODEL_UNAVAILABLE", 503)
        assert int(ready.headers["Retry-After"]) > 0
    return ready.status_code, ready.json()


READY: list[tuple[State, State, int]] = [
    ("ready", "ready", 200),
    ("not_configured", "ready", 200),
    ("ready", "not_configured", 200),
    ("unknown", "ready", 200),
    ("unknown", "not_configured", 200),
    ("unknown", "loading", 503),
    ("not_configured", "not_configured", 503),
    ("ready", "loading", 503),
    ("ready", "failed", 503),
    ("not_configured", "loading", 503),
    ("not_configured", "failed", 503),
]


@pytest.mark.parametrize(("cloud", "local", "status"), READY)
def test_ready_says_the_state_of_each_model(
    cloud: State, local: State, status: int, url: str, http: httpx2.Client
) -> None:
    CLOUD.state, LOCAL.state = cloud, local
    answered, body = asked(http, url)
    assert answered == status
    shown = {one["route"]: (one["name"], one["status"], one["reason"]) for one in body["models"]}
    assert shown["/generate"] == ("c", cloud, "scripted")
    assert shown["/local/generate"] == ("l", local, "scripted")
    assert body["status"] == ("ready" if status == 200 else "not_ready")


def test_only_the_local_models_own_name_is_known_on_its_route(url: str, http: httpx2.Client) -> None:
    LOCAL.state = "ready"
    own = http.post(f"{url}/local/generate", json={"prompt": "hi", "model": "l"})
    other = http.post(f"{url}/local/generate", json={"prompt": "hi", "model": "m"})
    assert own.status_code == 200
    error = envelope(other)
    assert (error["code"], error["field"]) == ("NOT_FOUND", "model")


def test_an_upstream_is_unknown_until_a_call_has_reached_it(mock: MockUpstream, http: httpx2.Client) -> None:
    with serving_models(openai_base_url=mock.base_url) as url:
        for expected in ("unknown", "ready"):
            [cloud] = [one for one in http.get(f"{url}/ready").json()["models"] if one["route"] == "/generate"]
            assert cloud["status"] == expected
            assert http.post(f"{url}/generate", json={"prompt": "hi"}).status_code == 200
