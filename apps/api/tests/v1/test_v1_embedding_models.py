"""Several embedding models of this machine: listed with their dimensions, chosen by name on both APIs, kept apart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import load_gateway, new_gateway
from apps.api.src.wiring.services import on_record
from apps.api.src.wiring.stores import EmbeddingModels, build_database
from apps.core.ports import Readiness
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.sentence_encoder import make_sentence_encoder
from apps.tests.support.serving import serving, settings


class Fixed:
    """An Embedder whose vectors are all alike."""

    def __init__(self, name: str, dimensions: int) -> None:
        self.name = name
        self.dimensions = dimensions
        self.longest = 99

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0] + [0.0] * (self.dimensions - 1) for _ in texts]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "fixed", {"dimensions": self.dimensions, "longest_input": self.longest})

    async def aclose(self) -> None:
        """Nothing to end."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    configured = settings(auth="off")
    local, gateway = ScriptedModel(saying("hi")), new_gateway(configured)
    load_gateway(gateway, configured, local, Fixed("first", 2), embedders=[Fixed("second", 3), Fixed("third", 4)])
    services = on_record(configured, local, local, gateway, database=build_database(configured))
    with serving(create_app(configured, services)) as served:
        yield served


def test_each_is_listed_with_its_dimensions_and_chosen_by_its_name(url: str, http: httpx2.Client) -> None:
    models = {model["id"]: model for model in http.get(f"{url}/v1/models").json()["data"]}
    assert [models[name]["dimensions"] for name in ("first", "second", "third")] == [2, 3, 4]
    assert models["scripted"]["dimensions"] is None
    for name, dimensions in (("first", 2), ("second", 3), ("third", 4)):
        answer = http.post(f"{url}/v1/embeddings", json={"model": name, "input": ["a", "b"]})
        assert [len(one["embedding"]) for one in answer.json()["data"]] == [dimensions] * 2
        assert (answer.json()["model"], answer.headers["x-model"]) == (name, name)
        ollama = http.post(f"{url}/api/embed", json={"model": f"{name}:latest", "input": "a"}).json()
        assert [len(vector) for vector in ollama["embeddings"]] == [dimensions]
        shown = http.post(f"{url}/api/show", json={"model": name}).json()
        assert shown["capabilities"] == ["embedding"]


def test_one_that_makes_embeddings_does_not_chat(url: str, http: httpx2.Client) -> None:
    body = {"model": "second", "messages": [{"role": "user", "content": "hi"}]}
    answer = http.post(f"{url}/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


@pytest.mark.long
def test_documents_may_name_one_of_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = make_sentence_encoder(tmp_path / "mine")
    configured = settings(embedding_models=str(folder), rag_embedding_model="mine", data_dir=tmp_path)
    models = EmbeddingModels(configured)
    assert models.of_documents(configured, None) == (models.others[0], folder / "tokenizer.json")
