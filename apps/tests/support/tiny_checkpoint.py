"""A Llama-shaped checkpoint with random weights, made in milliseconds without torch, and a tokenizer for it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def write_tiny_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """``changes`` to config.json's sizes. Returns the folder."""
    import numpy as np
    from safetensors.numpy import save_file

    sizes = {**SIZES, **changes}
    random = np.random.default_rng(seed)
    hidden, inner, vocabulary = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    q, kv = (sizes[f"num_{name}_heads"] * sizes["head_dim"] for name in ("attention", "key_value"))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
    for layer in range(sizes["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.q_proj": (q, hidden), f"{at}self_attn.o_proj": (hidden, q)}
        shapes |= {f"{at}self_attn.{name}_proj": (kv, hidden) for name in "kv"}
        shapes |= {f"{at}mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj": (hidden, inner)}
        shapes |= {f"{at}{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
    shapes["model.norm"] = (hidden,)
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else 1.0 if name == "model.embed_tokens" else 0.25
        values = random.standard_normal(shape) * scale + (len(shape) == 1)
        tensors[f"{name}.weight"] = values.astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes))
    return folder


class TinyTokenizer:
    """What an engine asks of a tokenizer: a printable character for each token, and no end token."""

    end_tokens: frozenset[int] = frozenset()

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(self._character, tokens))

    def encode(self, text: str) -> list[int]:
        """The tokens that ``decode`` made ``text`` of."""
        return [ord(character) - (32 if ord(character) < 127 else 0x100) for character in text]

    def token_bytes(self, token: int) -> bytes:
        return self._character(token).encode()

    @staticmethod
    def _character(token: int) -> str:
        return chr((32 if token < 95 else 0x100) + token)
