"""A checkpoint of TinyLlama-1.1B-Chat's shape with random weights: the same cost a token, no meaning.

`python -m eval.tinyllama_shape FOLDER` writes config, bf16 weights (2.2 GB), and the packaged model's chat template and
first 32,000 tokens, which other engines can read from a GGUF file.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from apps.core.settings import load_settings
from apps.local.packaged import transformers_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def write(folder: Path) -> None:
    """The weights where they are not there yet, and the tokenizer."""
    if not (folder / "model.safetensors").is_file():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        # normal weights of 0.02, norms of 1: what transformers begins a training with
        LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    _write_tokenizer(transformers_checkpoint(load_settings().model_cache_dir), folder)


def _write_tokenizer(source: Path, folder: Path) -> None:
    """The packaged model's first tokens: a merge's result stands behind its parts, so that what is cut off is whole."""
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < SIZES["vocab_size"]}
    model["merges"] = [parts for parts in model["merges"] if "".join(parts) in model["vocab"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
