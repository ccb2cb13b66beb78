"""Rotary position embedding: the table of cosines and sines, computed as transformers does, in float32.

What kind of Llama a checkpoint is, read from its config.json; anything that would be computed wrongly is refused.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.port import UnsupportedModel


def rope_table(rope: Mapping[str, Any], head_dim: int, context_length: int) -> tuple[Any, Any]:
    """cos and sin, float32 [context_length, head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.power(np.float32(rope["rope_theta"]), exponents)).astype(np.float32)
    if rope["rope_type"] == "linear":
        frequencies = frequencies / np.float32(rope["factor"])
    elif rope["rope_type"] == "llama3":
        frequencies = _llama3(frequencies, rope)
    angles = np.arange(context_length, dtype=np.float32)[:, None] * frequencies[None]
    return np.cos(angles), np.sin(angles)


def _llama3(frequencies: Any, rope: Mapping[str, Any]) -> Any:
    """Slow rotations are stretched by ``factor``, quick ones kept, those between blended (Llama 3.1)."""
    original = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    stretched = frequencies / np.float32(rope["factor"])
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * stretched + smooth * frequencies
    result = np.where(wavelengths > original / low, stretched, frequencies)
    between = (wavelengths <= original / low) & (wavelengths >= original / high)
    return np.where(between, blended, result).astype(np.float32)


ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes are counted in values; ``context_length`` in tokens. ``rope`` are transformers' rope parameters."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context_length: int
    norm_eps: float
    rope: Mapping[str, Any]
    tied: bool
    head_norms: bool
    end_tokens: frozenset[int]
    windows: tuple[int | None, ...] = ()

    @property
    def cache_values(self) -> int:
        """Keys and values of one token, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.hidden * self.vocabulary


def read_shape(folder: Path) -> Shape:
    """Raises UnsupportedModel."""
    config = json.loads((folder / "config.json").read_text())
    architecture = (config.get("architectures") or ["?"])[0]
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(f"{architecture} is none of {', '.join(ARCHITECTURES)}")
    try:
        shape = _shape(config, architecture, _end_tokens(folder, config))
    except KeyError as error:
        raise UnsupportedModel(f"config.json has no {error}") from error
    _check(shape, config)
    return shape


def _shape(config: Mapping[str, Any], architecture: str, end_tokens: frozenset[int]) -> Shape:
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        context_length=int(config["max_position_embeddings"]),
        windows=_windows(config, architecture),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope=_rope(config),
        tied=bool(config.get("tie_word_embeddings", False)),
        head_norms=architecture == "Qwen3ForCausalLM",
        end_tokens=end_tokens,
    )


def _windows(config: Mapping[str, Any], architecture: str) -> tuple[int | None, ...]:
    """How far back each layer's attention sees; None where it sees everything."""
    layers, window = int(config["num_hidden_layers"]), int(config.get("sliding_window") or 0)
    if not window or window >= config["max_position_embeddings"] or architecture == "LlamaForCausalLM":
        return (None,) * layers
    if architecture == "MistralForCausalLM":
        return (window,) * layers
    if not config.get("use_sliding_window", False):
        return (None,) * layers
    first = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or ["full" if i < first else "sliding_attention" for i in range(layers)]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 keeps everything in ``rope_parameters``; older files have ``rope_theta`` and ``rope_scaling``."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    return rope


def _end_tokens(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    ends = config.get("eos_token_id")
    generation = folder / "generation_config.json"
    if generation.is_file():
        ends = json.loads(generation.read_text()).get("eos_token_id", ends)
    return frozenset([ends] if isinstance(ends, int) else ends or [])


def _check(shape: Shape, config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"hidden_act is {config['hidden_act']}, not silu")
    if shape.rope["rope_type"] not in ROPE_TYPES:
        raise UnsupportedModel(f"rope_type is {shape.rope['rope_type']}, none of {', '.join(ROPE_TYPES)}")
    if float(shape.rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1) != 1:
        raise UnsupportedModel("only a part of each head is rotated (partial_rotary_factor)")
    if config.get("quantization_config"):
        raise UnsupportedModel("the checkpoint is quantized already (quantization_config)")
    for name, value, unit in (
        ("hidden_size", shape.hidden, 32),
        ("intermediate_size", shape.intermediate, 32),
        ("head_dim", shape.head_dim, 16),
        ("num_attention_heads", shape.heads, shape.kv_heads),
        ("head_dim x queries a key", shape.heads // shape.kv_heads * shape.head_dim, 32),
    ):
        if value % unit:
            raise UnsupportedModel(f"{name} is {value}, not a multiple of {unit}")
