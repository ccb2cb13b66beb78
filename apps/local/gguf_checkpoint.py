"""A checkpoint's folder, made of a Llama's GGUF file: its config and tokenizer; the weights stay where they are.

Only numpy and the standard library are needed: neither torch nor transformers.
"""

import json
import mmap
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.local.gguf import WEIGHTS, read_gguf

CONTROL = 3
BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
# what a prompt begins with is the chat template's business
NOTHING_ADDED = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def write_checkpoint(gguf: Path, folder: Path) -> None:
    """Raises ValueError for a file of another architecture or tokenizer, KeyError for one that lacks a value.

    OSError where ``folder`` cannot be written.
    """
    with gguf.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        read = read_gguf(memory)
    metadata = read.metadata
    tied = all(tensor.name != "lm_head.weight" for tensor in read.tensors)
    _write(folder / "config.json", config_of(metadata, tied=tied))
    _write(folder / "tokenizer.json", tokenizer_of(metadata))
    _write(folder / "tokenizer_config.json", _special_tokens(metadata))
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _link(gguf.resolve(), folder / WEIGHTS)


def config_of(metadata: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """A config.json as transformers writes it of a Llama."""
    hidden, heads = metadata["llama.embedding_length"], metadata["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "dtype": "float32",
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": metadata["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_theta": metadata["llama.rope.freq_base"], "rope_type": "default"},
        "tie_word_embeddings": tied,
        "vocab_size": metadata["llama.vocab_size"],
    }


def tokenizer_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json of a byte-level BPE, GPT-2's. Raises ValueError for another kind of tokenizer."""
    if metadata["tokenizer.ggml.model"] != "gpt2":
        raise ValueError(f"its tokenizer is {metadata['tokenizer.ggml.model']}, not gpt2")
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = [i for i, kind in enumerate(kinds) if kind == CONTROL]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **plain} for i in control],
        "normalizer": None,
        "pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": False},
        "post_processor": NOTHING_ADDED,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{said}_token_id") for name, said in names.items()}
    return {name: tokens[i] for name, i in ids.items() if i is not None}


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _link(gguf: Path, target: Path) -> None:
    """The file is there already, in its package; on a system that takes no links it is copied."""
    try:
        target.symlink_to(gguf)
    except (OSError, NotImplementedError):
        shutil.copyfile(gguf, target)
