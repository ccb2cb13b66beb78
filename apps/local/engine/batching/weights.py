"""A checkpoint's weights in the kernels' layouts: which tensors become which linear layer, and what stays as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apps.local.engine.batching.shape import Shape
from apps.local.engine.batching.tensors import Tensors
from apps.local.engine.kernel.errors import UnsupportedModel
from apps.local.engine.kernel.library import TYPES
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


def output_rows(part: Part, tensors: Tensors) -> tuple[Any, Any]:
    """Of each output, padded to whole blocks: the number of its source, -1 for padding, and its row there.

    Raises UnsupportedModel.
    """
    counts = []
    for source in part.sources:
        name = f"{source}.weight"
        shape = tensors.shape(name)
        if len(shape) != 2 or shape[1] != part.inputs:
            raise UnsupportedModel(f"{name} has {shape[-1]} inputs, not {part.inputs}")
        if tensors.dtype(name) not in TYPES and tensors.dtype(name) not in QUANTIZED:
            raise UnsupportedModel(f"{name} is of the type {tensors.dtype(name)}, none of {', '.join(TYPES)}")
        counts.append(shape[0])
    if sum(counts) != part.outputs or (part.interleaved and len(set(counts)) > 1):
        raise UnsupportedModel(f"{', '.join(part.sources)} have {sum(counts)} outputs, not {part.outputs}")
    sources = [np.full(count, number, np.int64) for number, count in enumerate(counts)]
    return _in_blocks(part, sources, -1), _in_blocks(part, [np.arange(count, dtype=np.int64) for count in counts], 0)


def addresses_of(part: Part, tensors: Tensors, sources: Any, rows: Any) -> tuple[Any, Any, Any]:
    """Where the values of some of a part's outputs lie, int64, 0 for padding; their types; what must live meanwhile."""
    addresses, types, alive = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int32), []
    for number, source in enumerate(part.sources):
        mine = sources == number
        if mine.any():
            found, dtype, values = tensors.addresses(f"{source}.weight", rows[mine])
            addresses[mine], types[mine] = found, TYPES[dtype]
            alive.append(values)
    return addresses, types, alive


def _in_blocks(part: Part, sources: Sequence[Any], padding: int) -> Any:
    """One value of each output: as the part has them, padded to whole blocks."""
    if part.interleaved:
        return interleave(sources)
    values = np.concatenate(sources)
    return np.concatenate([values, np.full(-len(values) % BLOCK, padding, values.dtype)])


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
