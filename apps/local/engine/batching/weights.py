"""A checkpoint's weights in the kernels' layouts: which tensors become which linear layer, and what stays as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from apps.local.engine.batching.shape import Shape
from apps.local.engine.batching.tensors import Tensors
from apps.local.engine.kernel.errors import UnsupportedModel
from apps.local.engine.kernel.packing import BLOCK, Kind, from_bf16
from apps.local.gguf import QUANTIZED, dequantized

EMBEDDING = "model.embed_tokens.weight"
IGNORED = ("rotary_emb.inv_freq",)
KINDS: Mapping[str, Kind] = {"int4": Kind.INT4, "int8": Kind.INT8, "bf16": Kind.BF16, "fp32": Kind.FP32}


@dataclass(frozen=True, slots=True)
class Part:
    """One linear layer as the kernels see it: the outputs of ``sources`` one after another.

    ``interleaved`` takes turns instead, a block of each, so that what belongs together is computed together.
    """

    name: str
    sources: tuple[str, ...]
    kind: Kind
    outputs: int
    inputs: int
    interleaved: bool = False


@dataclass(slots=True)
class Weights:
    """Packed linear layers by the part's name; biases float32 padded like the outputs; norms float32."""

    parts: Mapping[str, Part]
    packed: Mapping[str, Any]
    biases: dict[str, Any] = field(default_factory=dict)
    norms: dict[str, Any] = field(default_factory=dict)
    embedding: Any = None
    embedding_type: str = "F32"

    def embedded(self, tokens: Sequence[int]) -> Any:
        """Their rows of the embedding, float32 [tokens, hidden]."""
        rows = self.embedding[np.asarray(tokens, np.int64)]
        if self.embedding_type in QUANTIZED:
            return dequantized(rows, self.embedding_type)
        return from_bf16(rows) if self.embedding_type == "BF16" else np.ascontiguousarray(rows, np.float32)

    @property
    def packed_bytes(self) -> int:
        return sum(int(values.nbytes) for values in self.packed.values())


def parts_of(shape: Shape, precision: str) -> list[Part]:
    kind = KINDS[precision]
    attention = shape.heads * shape.head_dim
    parts = []
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        qkv = tuple(f"{at}self_attn.{name}_proj" for name in "qkv")
        kv = shape.kv_heads * shape.head_dim
        parts += [
            Part(f"{layer}.qkv", qkv, kind, attention + 2 * kv, shape.hidden),
            Part(f"{layer}.o", (f"{at}self_attn.o_proj",), kind, shape.hidden, attention),
            Part(
                f"{layer}.gate_up",
                (f"{at}mlp.gate_proj", f"{at}mlp.up_proj"),
                kind,
                2 * shape.intermediate,
                shape.hidden,
                interleaved=True,
            ),
            Part(f"{layer}.down", (f"{at}mlp.down_proj",), kind, shape.hidden, shape.intermediate),
        ]
    head = EMBEDDING.removesuffix(".weight") if shape.tied else "lm_head"
    # a tied head is the embedding too, the table that suffers most from 4 bits; GGUF files keep it in 8 for that
    head_kind = Kind.INT8 if shape.tied and kind is Kind.INT4 else kind
    return [*parts, Part("head", (head,), head_kind, shape.vocabulary, shape.hidden)]


def small_tensors(shape: Shape, tensors: Tensors, weights: Weights) -> None:
    """Fills in norms, biases and the embedding; raises UnsupportedModel for tensors that nothing here uses."""
    names = ["input_layernorm", "post_attention_layernorm"]
    names += ["self_attn.q_norm", "self_attn.k_norm"] if shape.head_norms else []
    norms = [f"model.layers.{layer}.{name}.weight" for layer in range(shape.layers) for name in names]
    for name in [*norms, "model.norm.weight"]:
        weights.norms[name] = np.ascontiguousarray(tensors.floats(name))
    for part in weights.parts.values():
        if any(f"{source}.bias" in tensors for source in part.sources):
            weights.biases[part.name] = _bias(part, tensors)
    weights.embedding = tensors.raw(EMBEDDING)
    weights.embedding_type = tensors.dtype(EMBEDDING)
    _refuse_unknown(shape, tensors, weights)


def source_rows(part: Part, tensors: Tensors, start: int, stop: int) -> Any:
    """The float32 rows [start, stop) of a part, gathered from its sources.

    Where those are interleaved, start and stop are multiples of a block of each.
    """
    if part.interleaved:
        half = len(part.sources)
        apart = [
            replace(part, sources=(source,), outputs=part.outputs // half, interleaved=False) for source in part.sources
        ]
        return interleave([source_rows(one, tensors, start // half, stop // half) for one in apart])
    pieces, begin = [], 0
    for source in part.sources:
        name = f"{source}.weight"
        rows, inputs = tensors.shape(name)
        if inputs != part.inputs:
            raise UnsupportedModel(f"{name} has {inputs} inputs, not {part.inputs}")
        low, high = max(start - begin, 0), min(stop - begin, rows)
        if low < high:
            pieces.append(tensors.floats(name, slice(low, high)))
        begin += rows
    if begin != part.outputs:
        raise UnsupportedModel(f"{', '.join(part.sources)} have {begin} outputs, not {part.outputs}")
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def interleave(sources: Sequence[Any]) -> Any:
    """A block of the first source, one of the second, and so on."""
    blocks = [rows.reshape(-1, BLOCK, *rows.shape[1:]) for rows in sources]
    return np.stack(blocks, axis=1).reshape(-1, *sources[0].shape[1:])


def _bias(part: Part, tensors: Tensors) -> Any:
    bias = np.zeros(-(-part.outputs // BLOCK) * BLOCK, np.float32)
    begin = 0
    for source in part.sources:
        rows = tensors.shape(f"{source}.weight")[0]
        if f"{source}.bias" in tensors:
            bias[begin : begin + rows] = tensors.floats(f"{source}.bias")
        begin += rows
    return interleave(np.split(bias, len(part.sources))) if part.interleaved else bias


def _refuse_unknown(shape: Shape, tensors: Tensors, weights: Weights) -> None:
    known = {EMBEDDING, *weights.norms, *(["lm_head.weight"] if shape.tied else [])}
    for part in weights.parts.values():
        known |= {f"{source}.{end}" for source in part.sources for end in ("weight", "bias")}
    unknown = [name for name in tensors.names if name not in known and not name.endswith(IGNORED)]
    if unknown:
        raise UnsupportedModel(f"tensors that a model of this shape does not have: {', '.join(sorted(unknown)[:3])}")
