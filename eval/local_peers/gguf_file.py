"""A checkpoint of the Llama architecture as a GGUF file for the peers: matrices in Q4_0, norms in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.batching.weights import Tensors, checkpoint_files

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write(folder: Path, tokens_of: Path, target: Path) -> None:
    """``tokens_of`` is the GGUF file whose tokenizer the checkpoint has, of which it takes as many tokens as it has."""
    import gguf

    if target.is_file():
        return
    config = json.loads((folder / "config.json").read_text())
    unfinished = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(unfinished, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    _add_tokenizer(writer, gguf.GGUFReader(tokens_of), config["vocab_size"])
    tensors = Tensors(checkpoint_files(folder))
    for name in tensors.names:
        values = tensors.floats(name)
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(values, np.float32))
            continue
        if "q_proj" in name or "k_proj" in name:
            values = _pairs_side_by_side(values, heads if "q_proj" in name else kv_heads)
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
        tensors.forget_pages()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(target)


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OTHERS:
        return f"{OTHERS[stem]}.weight"
    layer, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest]}.weight"


def _pairs_side_by_side(rows: Any, heads: int) -> Any:
    """The halves of each rotary pair, which transformers has half a head apart."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _add_tokenizer(writer: Any, source: Any, words: int) -> None:
    def read(name: str) -> Any:
        return source.fields[f"tokenizer.{name}"].contents()

    tokens = read("ggml.tokens")[:words]
    known = set(tokens)
    writer.add_tokenizer_model(read("ggml.model"))
    writer.add_tokenizer_pre(read("ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(read("ggml.token_type")[:words])
    writer.add_token_merges([merge for merge in read("ggml.merges") if merge.replace(" ", "") in known])
    writer.add_bos_token_id(read("ggml.bos_token_id"))
    writer.add_eos_token_id(read("ggml.eos_token_id"))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(read("chat_template"))
