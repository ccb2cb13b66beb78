"""Checkpoints that are damaged, or of a kind that only transformers knows: what loads, and what is said of the rest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from apps.core.settings import Settings
from apps.local.engine.port import Sampling
from apps.local.loading import LoadFailed, load_local

pytestmark = pytest.mark.local
SIZES = {"vocab_size": 75, "hidden_size": 64, "num_attention_heads": 4}
PROMPT = [3, 17, 44, 5, 70, 2, 9, 31]


def report(*_: Any, **__: Any) -> None:
    """The load may take what it takes."""


def word_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(75)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w1"}))


def checkpoint(folder: Path, kind: str, sizes: dict[str, Any]) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    word_tokenizer(folder)
    return model


def settings(folder: Path, cache: Path) -> Settings:
    return Settings(
        _env_file=None, local_model=str(folder), local_precision="fp32", model_cache_dir=cache, local_slots=1
    )


LLAMA = {**SIZES, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 128}
ODD = {
    "bloom": {**SIZES, "n_layer": 2, "n_head": 4},
    "falcon": {**SIZES, "num_hidden_layers": 2, "alibi": True},
    "mpt": {"vocab_size": 75, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 96},
    "mistral": {**LLAMA, "num_key_value_heads": 2, "sliding_window": 6},
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.long
async def test_it_answers_as_transformers_does_beyond_its_window_too(kind: str, tmp_path: Path) -> None:
    import torch

    model = checkpoint(tmp_path / "model", kind, ODD[kind])
    tokens = torch.tensor([PROMPT * 4])
    expected = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, tokens.shape[1] :].tolist()
    loaded = load_local(settings(tmp_path / "model", tmp_path), report)
    try:
        assert loaded.engine.context_length == {"mpt": 96, "mistral": 128}.get(kind, 2048)
        sampling = Sampling(0, 1, 12, ignore_eos=False)
        outputs = [output async for output in loaded.engine.generate(PROMPT * 4, sampling)]
        words = "".join(output.text for output in outputs).split()
        ends = loaded.tokenizer.vocabulary().end_tokens
        told = [token for token in expected if token not in ends]
        assert words == [f"w{token}" for token in told[: len(words)]]
        assert words or expected[0] in ends
    finally:
        loaded.engine.close()


@pytest.mark.parametrize("kind", ["llama", "bloom"])
@pytest.mark.parametrize("tensor", ["first", "last"])
def test_weights_that_are_not_finite_are_a_failure_that_says_so(kind: str, tensor: str, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    checkpoint(tmp_path / "model", kind, LLAMA if kind == "llama" else ODD[kind])
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0 if tensor == "first" else -1]
    damaged = weights[name].copy()
    damaged.flat[-1] = np.nan
    save_file({**weights, name: damaged}, file, metadata={"format": "pt"})
    with pytest.raises(LoadFailed, match="not finite"):
        load_local(settings(tmp_path / "model", tmp_path), report)


def test_weights_whose_hash_is_not_the_hubs_are_refused_and_whole_ones_read_once(tmp_path: Path) -> None:
    from apps.local.checkpoint import damaged_files

    checkpoint(tmp_path / "model", "llama", LLAMA)
    file = tmp_path / "model" / "model.safetensors"
    content = file.read_bytes()
    blob = tmp_path / hashlib.sha256(content).hexdigest()
    file.rename(blob)
    file.symlink_to(blob)
    assert damaged_files(tmp_path / "model") == []
    # one bit of a weight: as finite as before
    blob.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(LoadFailed, match=r"model\.safetensors.*hash"):
        load_local(settings(tmp_path / "model", tmp_path), report)
    blob.write_bytes(content)
    load_local(settings(tmp_path / "model", tmp_path), report).engine.close()
    assert len(list((tmp_path / "verified").iterdir())) == 1
