"""Step on torch's own kernels, in float32 or bfloat16: where the project's kernels cannot be had (ARM, Windows, an
old CPU, no compiler). The same batching, several times slower. Imported where it serves.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.core.messages import JsonObject
from apps.local.engine.batching.shape import Shape, rope_table
from apps.local.engine.batching.step import WholeSequences
from apps.local.engine.batching.weights import EMBEDDING, Tensors, checkpoint_files


class TorchStep(WholeSequences):
    """Implements Step. Owned by one thread; ``run`` sets that thread's number of torch threads."""

    # torch chooses other sums for one row than for several
    rows_independent = False

    def __init__(
        self, folder: Path, shape: Shape, precision: str, context_length: int, threads: int, max_rows: int
    ) -> None:
        self.max_rows = max_rows
        self._shape = shape
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._context = context_length
        self._threads = threads
        self._weights = self._load(folder)
        cos, sin = rope_table(shape.rope, shape.head_dim, context_length)
        # both halves of a head are turned by the same angles
        self._cos, self._sin = (torch.from_numpy(np.tile(table, 2)).to(self._dtype) for table in (cos, sin))

    def new_cache(self) -> Any:
        """[keys and values, layers, kv heads, context, head_dim]"""
        shape = self._shape
        size = (2, shape.layers, shape.kv_heads, self._context, shape.head_dim)
        return torch.empty(size, dtype=self._dtype)

    def copy_prefix(self, source: Any, target: Any, tokens: int) -> None:
        target[:, :, :, :tokens] = source[:, :, :, :tokens]

    def read_block(self, cache: Any, start: int, stop: int) -> bytes:
        return bytes(cache[:, :, :, start:stop].contiguous().view(torch.uint8).numpy().data.cast("B"))

    def write_block(self, cache: Any, start: int, stop: int, values: Any) -> None:
        target = cache[:, :, :, start:stop]
        target.copy_(torch.frombuffer(bytearray(values), dtype=self._dtype).reshape(target.shape))

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        runs = list(_runs(positions, caches))
        with torch.inference_mode():
            x = torch.nn.functional.embedding(torch.tensor(tokens), self._weights[EMBEDDING]).to(self._dtype)
            at = torch.tensor(positions)
            angles = (self._cos[at][:, None], self._sin[at][:, None])
            for layer in range(self._shape.layers):
                x = self._layer(layer, x, angles, runs)
            if not wanted:
                return np.empty((0, self._shape.vocabulary), np.float32)
            x = self._norm(x[torch.tensor(wanted)], "model.norm")
            head = EMBEDDING if self._shape.tied else "lm_head.weight"
            return torch.nn.functional.linear(x, self._weights[head]).float().numpy()

    def describe(self) -> JsonObject:
        total = sum(tensor.numel() * tensor.element_size() for tensor in self._weights.values())
        return {"kernels": "torch", "threads": self._threads, "weights_bytes": total, "cache_type": str(self._dtype)}

    def close(self) -> None:
        self._weights = {}

    def _layer(self, layer: int, x: Any, angles: Any, runs: list[tuple[int, int, int, Any]]) -> Any:
        functional = torch.nn.functional
        at = f"model.layers.{layer}."
        x = x + self._attention(layer, self._norm(x, f"{at}input_layernorm"), angles, runs)
        h = self._norm(x, f"{at}post_attention_layernorm")
        gate, up = self._linear(h, f"{at}mlp.gate_proj"), self._linear(h, f"{at}mlp.up_proj")
        return x + self._linear(functional.silu(gate) * up, f"{at}mlp.down_proj")

    def _attention(self, layer: int, h: Any, angles: Any, runs: list[tuple[int, int, int, Any]]) -> Any:
        shape = self._shape
        at = f"model.layers.{layer}.self_attn."
        q = self._linear(h, f"{at}q_proj").view(-1, shape.heads, shape.head_dim)
        k, v = (self._linear(h, f"{at}{name}_proj").view(-1, shape.kv_heads, shape.head_dim) for name in "kv")
        if shape.head_norms:
            q, k = self._norm(q, f"{at}q_norm"), self._norm(k, f"{at}k_norm")
        q, k = _rotated(q, angles), _rotated(k, angles)
        attended = torch.empty_like(q)
        for begin, end, position, cache in runs:
            last = position + end - begin
            cache[0, layer, :, position:last] = k[begin:end].transpose(0, 1)
            cache[1, layer, :, position:last] = v[begin:end].transpose(0, 1)
            window = shape.windows[layer]
            first = 0 if window is None else max(0, position + 1 - window)
            keys, queries = torch.arange(first, last), torch.arange(position, last)[:, None]
            seen = keys <= queries
            if window is not None:
                seen &= keys > queries - window
            found = torch.nn.functional.scaled_dot_product_attention(
                q[begin:end].transpose(0, 1)[None],
                cache[0, layer, :, first:last][None],
                cache[1, layer, :, first:last][None],
                attn_mask=seen if end - begin > 1 else None,
                enable_gqa=True,
            )
            attended[begin:end] = found[0].transpose(0, 1)
        return self._linear(attended.flatten(1), f"{at}o_proj")

    def _linear(self, x: Any, name: str) -> Any:
        return torch.nn.functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))

    def _norm(self, x: Any, name: str) -> Any:
        weight = self._weights[f"{name}.weight"]
        # the mean of squares in float32, whatever the activations are, as transformers does
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._shape.norm_eps)
        return weight * wide.to(self._dtype)

    def _load(self, folder: Path) -> dict[str, Any]:
        tensors = Tensors(checkpoint_files(folder))
        weights = {}
        for name in tensors.names:
            # a copy: torch wants values that can be written
            weights[name] = torch.from_numpy(np.array(tensors.floats(name), np.float32)).to(self._dtype)
            tensors.forget_pages()
        return weights


def _rotated(x: Any, angles: Any) -> Any:
    low, high = x.chunk(2, dim=-1)
    return x * angles[0] + torch.cat([-high, low], dim=-1) * angles[1]


def _runs(positions: Sequence[int], caches: Sequence[Any]) -> Iterator[tuple[int, int, int, Any]]:
    """Rows [begin, end) that are one sequence's, the position of the first, and their cache."""
    begin = 0
    for end in range(1, len(positions) + 1):
        if end == len(positions) or caches[end] is not caches[begin]:
            yield begin, end, positions[begin], caches[begin]
            begin = end


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself."""
    return bool(torch.cpu._is_avx512_bf16_supported())
