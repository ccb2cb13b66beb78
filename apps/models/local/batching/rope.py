"""Rotary position embedding: the table of cosines and sines, computed as transformers does, in float32."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


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
