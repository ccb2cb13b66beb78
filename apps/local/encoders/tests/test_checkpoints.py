"""EMBEDDING_MODELS: folders of sentence encoders, by what their files tell, and with real (random) weights."""

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from apps.core.settings import SettingsError
from apps.local.encoders import embedder
from apps.local.encoders.embedder import LocalEmbedder, embedders
from apps.local.encoders.load_failure import RETRY_AFTER
from apps.tests.support.sentence_encoder import make_sentence_encoder

CONFIG = {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 64}
POOLING = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


def written(folder: Path, **files: Any) -> Path:
    """A folder whose weights are never read."""
    folder.mkdir()
    for name, content in {"config": CONFIG, "tokenizer": {}, **files}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_what_a_checkpoint_is_stands_in_its_files(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain")
    short = written(tmp_path / "short", sentence_bert_config={"max_seq_length": 16})
    roberta = written(tmp_path / "roberta", config={**CONFIG, "model_type": "xlm-roberta", "pad_token_id": 1})
    found = embedders(map(str, (plain, short, roberta)))
    assert [(one.name, one.dimensions, one.longest) for one in found] == [
        ("plain", 32, 64),
        ("short", 32, 16),
        ("roberta", 32, 62),
    ]
    assert [one.readiness().details["dimensions"] for one in found] == [32] * 3


def test_vectors_are_cut_to_what_the_model_was_trained_for(tmp_path: Path) -> None:
    configs: list[dict[str, Any]] = [{}, {"is_matryoshka": True}, {"matryoshka_dimensions": [8, 16, 32, 64, True]}]
    folders = [written(tmp_path / str(i), config={**CONFIG, **more}) for i, more in enumerate(configs)]
    plain, any_number, some = (one.cuttable for one in embedders(map(str, folders)))
    assert (list(plain), any_number, some) == ([], range(1, 32), {8, 16})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config": None}, "no config.json"),
        ({"config": {**CONFIG, "model_type": "llama"}}, "must be one of bert"),
        ({"config": {"model_type": "bert"}}, "neither a hidden size"),
        ({"config": []}, "config.json cannot be read"),
        ({"modules": [{"type": "sentence_transformers.models.Dense"}]}, "a part Dense"),
    ],
)
def test_a_folder_that_is_no_sentence_encoder_is_told_at_the_start(
    tmp_path: Path, files: dict[str, Any], words: str
) -> None:
    folder = written(tmp_path / "model", **files)
    with pytest.raises(SettingsError, match=words) as told:
        embedders([str(folder)])
    assert "EMBEDDING_MODELS" in str(told.value)


def test_two_of_one_name_and_odd_pooling_are_told(tmp_path: Path) -> None:
    first = written(tmp_path / "model")
    (tmp_path / "other").mkdir()
    second = written(tmp_path / "other" / "model")
    with pytest.raises(SettingsError, match="two folders are named model"):
        embedders([str(first), str(second)])
    (first / "1_Pooling").mkdir()
    (first / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(SettingsError, match="pooled by mean or by the first"):
        embedders([str(first)])


@pytest.mark.local
async def test_vectors_are_those_of_the_checkpoints_own_recipe(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    mean = make_sentence_encoder(tmp_path / "mean", dimensions=48)
    first = make_sentence_encoder(tmp_path / "first", kind="roberta", pooling="cls")
    for folder, dimensions, length in ((mean, 48, 12), (first, 32, 1)):
        (made,) = embedders([str(folder)])
        try:
            texts = ["hello", "a longer text, with more words in it than the first"]
            tokens, vectors = await made.tokenize(texts), await made.embed(texts)
            model = AutoModel.from_pretrained(folder).eval()
            for ids, vector in zip(tokens, vectors, strict=True):
                with torch.inference_mode():
                    hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0].float()
                pooled = hidden[0] if length == 1 else hidden.mean(0)
                expected = torch.nn.functional.normalize(pooled, dim=0).tolist()
                assert len(vector) == dimensions
                assert math.isclose(sum(a * b for a, b in zip(vector, expected, strict=True)), 1, abs_tol=1e-3)
        finally:
            await made.aclose()


@pytest.mark.local
async def test_a_short_text_alone_has_the_vector_that_it_has_among_others(tmp_path: Path) -> None:
    from apps.local.encoders.bert import FEW_TOKENS

    (made,) = embedders([str(make_sentence_encoder(tmp_path / "model", dimensions=48))])
    try:
        tokens = await made.tokenize(["hello", "what is a list comprehension?", "word " * (FEW_TOKENS - 2)])
        assert len(tokens[-1]) == FEW_TOKENS
        among = await made.embed_tokens([*tokens, *tokens])
        for run, expected in zip(tokens, among, strict=False):
            [alone] = await made.embed_tokens([run])
            # in bf16 they differ more
            assert sum(a * b for a, b in zip(alone, expected, strict=True)) > 0.9999
    finally:
        await made.aclose()


@pytest.mark.local
async def test_models_load_at_their_first_use_and_one_after_the_other(tmp_path: Path) -> None:
    folders = [make_sentence_encoder(tmp_path / name) for name in ("one", "two")]
    one, two = embedders(map(str, folders))
    try:
        assert "first use" in one.readiness().reason
        with embedder.LOADING:
            waiting = [asyncio.create_task(model.embed(["hello"])) for model in (one, two)]
            done, _ = await asyncio.wait(waiting, timeout=0.5)
            assert not done
        await asyncio.gather(*waiting)
        # what has loaded needs the lock no more
        with embedder.LOADING:
            assert len(await one.embed(["hello"])) == 1
        assert "Loaded" in one.readiness().reason
    finally:
        for model in (one, two):
            await model.aclose()


@pytest.mark.local
async def test_a_checkpoint_that_does_not_load_says_so(tmp_path: Path) -> None:
    folder = make_sentence_encoder(tmp_path / "broken")
    shutil.copy(folder / "config.json", folder / "model.safetensors")
    now = [100.0]
    made = LocalEmbedder("broken", 32, 64, lambda: folder, clock=lambda: now[0])
    try:
        with pytest.raises(Exception, match="could not be loaded"):
            await made.embed(["hello"])
        assert (made.readiness().state, made.readiness().retry_after) == ("failed", RETRY_AFTER)
        now[0] += RETRY_AFTER
        assert (made.readiness().state, made.readiness().retry_after) == ("ready", None)
        # it is tried again, and fails anew
        with pytest.raises(Exception, match="could not be loaded"):
            await made.embed(["hello"])
        assert made.readiness().state == "failed"
    finally:
        await made.aclose()
