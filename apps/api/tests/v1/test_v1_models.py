"""GET /v1/models and /v1/models/{id}: OpenAI's shapes, and whether each name can answer now."""

from pathlib import Path
from typing import Any

import openai
import pytest

from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

FILE = """
providers:
  cloud: {{base_url: "{url}"}}
  keyed: {{base_url: "https://api.openai.com/v1", api_key_env: A_KEY_THAT_IS_NOT_SET}}
  here: {{kind: local}}
models:
  fast/small:
    targets:
      - {{provider: keyed, model: gpt-big}}
      - {{provider: cloud, model: gpt-small}}
  unset: {{targets: [{{provider: keyed, model: gpt-big}}]}}
"""


def listed(url: str) -> dict[str, dict[str, Any]]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        page = client.models.list()
        assert page.object == "list"
        return {model.id: model.model_dump() for model in page}


def test_without_a_file_the_local_models_and_the_default_model_are_listed(mock: MockUpstream) -> None:
    local = ScriptedModel(saying("hi"), name="org/really-this-one")
    with serving_models(local=local, openai_base_url=mock.base_url, default_model="house") as url:
        models = listed(url)
    assert set(models) == {"org/really-this-one", "all-MiniLM-L6-v2", "house"}
    assert models["house"]["owned_by"] == "openai"
    assert models["org/really-this-one"]["owned_by"] == "local"
    for model in models.values():
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["targets"]


@pytest.mark.parametrize("state", ["ready", "unknown", "loading", "failed", "not_configured"])
def test_a_models_readiness_shows_with_its_reason(state: Any) -> None:
    with serving_models(local=ScriptedModel(saying("hi"), name="tiny", state=state)) as url:
        model = listed(url)["tiny"]
    assert (model["status"], model["reason"]) == (state, "scripted")
    assert model["targets"][0] == {"target": "local/tiny", "status": state, "reason": "scripted", "breaker": "closed"}


def test_the_default_model_without_a_key_says_what_to_do() -> None:
    with serving_models() as url:
        model = listed(url)["gpt-4o-mini"]
    assert model["status"] == "not_configured"
    assert "OPENAI_API_KEY" in model["reason"]


def test_the_names_of_the_routing_file_are_listed_as_ready_as_their_readiest_target(
    mock: MockUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE.format(url=mock.base_url))
    with serving_models(local=ScriptedModel(saying("hi"), name="tiny"), gateway_config=file) as url:
        models = listed(url)
    assert set(models) == {"fast/small", "unset", "tiny"}
    assert models["fast/small"]["status"] == "unknown"
    assert [target["status"] for target in models["fast/small"]["targets"]] == ["not_configured", "unknown"]
    assert models["unset"]["status"] == "not_configured"


def test_a_target_left_alone_by_its_breaker_is_not_ready(mock: MockUpstream) -> None:
    with (
        serving_models(openai_base_url=mock.base_url, default_model="fault-500", retry_attempts=1) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        for _ in range(10):
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="fault-500", messages=[{"role": "user", "content": "hi"}])
        model = listed(url)["fault-500"]
    assert model["status"] == "failed"
    assert model["targets"][0]["breaker"] == "open"


def test_one_model_is_found_by_its_id_slashes_and_all() -> None:
    with (
        serving_models(local=ScriptedModel(saying("hi"), name="org/tiny")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        assert client.models.retrieve("org/tiny").id == "org/tiny"


def test_an_unknown_model_is_the_clients_not_found_error() -> None:
    with (
        serving_models(local=ScriptedModel(saying("hi"), name="org/tiny")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
        pytest.raises(openai.NotFoundError) as caught,
    ):
        client.models.retrieve("org/other")
    assert isinstance(caught.value.body, dict)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"
    assert "org/tiny" in caught.value.body["details"]["available"]
