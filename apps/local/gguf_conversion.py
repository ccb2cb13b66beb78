"""A GGUF file of the Llama architecture, written as a transformers checkpoint: config, tokenizer, float32 weights.

`from_pretrained(gguf_file=...)` would do it too, but wants accelerate and parses the vocabulary three times over
(28 s against 6 s for SmolLM2). Knows the names and the row order of llama.cpp's Llama files, no other architecture.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from gguf import GGMLQuantizationType, dequantize
from safetensors import SafetensorError
from safetensors.numpy import save_file
from transformers import LlamaConfig
from transformers.integrations.gguf import read_gguf_metadata
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from apps.local.gguf import hub_name


def convert(gguf: Path, folder: Path) -> None:
    """Raises ValueError for a file of another architecture or with tensors that a Llama does not have.

    OSError where ``folder`` cannot be written.
    """
    metadata, names = read_gguf_metadata(str(gguf))
    if metadata["general.architecture"] != "llama":
        raise ValueError(f"{gguf.name} is of the architecture {metadata['general.architecture']}, not llama")
    tokenizer = TokenizersBackend.from_pretrained(str(gguf.parent), gguf_file=gguf.name, local_files_only=True)
    tokenizer.save_pretrained(folder)
    _config(metadata, tied="output.weight" not in names).save_pretrained(folder)
    heads = (metadata["llama.attention.head_count"], metadata["llama.attention.head_count_kv"])
    weights = _weights(gguf, *heads)
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        # what it raises for a full disk too
        raise OSError(str(error)) from error


def _weights(gguf: Path, heads: int, kv_heads: int) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    for name, tensor in load_gguf_state_dict(GgufHeader.from_file(str(gguf))).items():
        values = dequantize(tensor.data, GGMLQuantizationType(tensor.ggml_type))
        values = values.reshape(*tensor.shape[:-1], -1).astype(numpy.float32, copy=False)
        if ".attn_q." in name:
            values = _rotary_order(values, heads)
        elif ".attn_k." in name:
            values = _rotary_order(values, kv_heads)
        weights[hub_name(name)] = numpy.ascontiguousarray(values)
    return weights


def _rotary_order(rows: Any, heads: int) -> Any:
    """llama.cpp keeps the two halves of each rotary pair side by side, transformers half a head apart."""
    pairs = rows.shape[0] // heads // 2
    return rows.reshape(heads, pairs, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _config(metadata: Mapping[str, Any], *, tied: bool) -> Any:
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        bos_token_id=metadata["tokenizer.ggml.bos_token_id"],
        eos_token_id=metadata["tokenizer.ggml.eos_token_id"],
        pad_token_id=metadata["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=tied,
    )
    config.dtype = "float32"
    return config
