"""A checkpoint's weights: its safetensors or GGUF files mapped, and the linear layers in the kernels' layouts.

Nothing is read before it is used, nothing is unpickled. numpy has no bfloat16, so the files are read here directly:
eight bytes with the header's length, the header in JSON, the values
(https://github.com/huggingface/safetensors#format). A GGUF file's blocks are dequantized row by row. Then: which
tensors become which linear layer, and which numbers they are kept in.
"""

import json
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.batching.shape import Shape
from apps.local.engine.kernel.library import BLOCK, TYPES, Kind, from_bf16
from apps.local.engine.port import UnsupportedModel
from apps.local.gguf import QUANTIZED, WEIGHTS, GgufTensor, bytes_of_row, read_gguf

GGUF = ".gguf"
TENSOR_TYPES: Mapping[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U8": np.uint8, "I64": np.int64
}  # fmt: skip


class Tensors:
    """The tensors of one or more files, by name. Raises UnsupportedModel for a file that is missing or broken."""

    def __init__(self, files: list[Path]) -> None:
        self._maps: list[mmap.mmap] = []
        self._reordered: dict[str, Any] = {}
        self._entries: dict[str, tuple[mmap.mmap, int, str, list[int]]] = {}
        self.metadata: dict[str, str] = {}
        for file in files:
            self._open(file)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def dtype(self, name: str) -> str:
        return self._entry(name)[2]

    def shape(self, name: str) -> list[int]:
        return self._entry(name)[3]

    def raw(self, name: str) -> Any:
        """The values as they lie in the file, read-only; bfloat16 as uint16. Raises UnsupportedModel.

        Quantized ones are their rows' bytes, uint8 [rows, bytes].
        """
        memory, start, dtype, shape = self._entry(name)
        if dtype in QUANTIZED:
            width = bytes_of_row(dtype, shape[-1])
            return np.frombuffer(memory, np.uint8, shape[0] * width, start).reshape(shape[0], width)
        if dtype not in TENSOR_TYPES:
            raise UnsupportedModel(f"{name} is of the type {dtype}")
        kind = np.dtype(TENSOR_TYPES[dtype])
        return np.frombuffer(memory, kind, int(np.prod(shape, dtype=np.int64)), start).reshape(shape)

    def addresses(self, name: str, rows: Any) -> tuple[Any, str, Any]:
        """Where the values of ``rows`` lie, int64, their type, and what must live as long as they are read.

        Quantized ones are float32 then: ``rows`` are neighbours, or are made so.
        """
        values, dtype = self.raw(name), self.dtype(name)
        if dtype in QUANTIZED:
            first = int(rows.min())
            values, dtype, rows = (
                np.ascontiguousarray(self.floats(name, slice(first, int(rows.max()) + 1))),
                "F32",
                rows - first,
            )
        elif (order := self._reordered.get(name)) is not None:
            rows = np.asarray(order, np.int64)[rows]
        return values.ctypes.data + rows * values.strides[0], dtype, values

    def floats(self, name: str, rows: slice = slice(None)) -> Any:
        """float32 values, of ``rows`` only."""
        order = self._reordered.get(name)
        values = self.raw(name)[rows if order is None else order[rows]]
        if self.dtype(name) in QUANTIZED:
            return dequantized(values, self.dtype(name))
        return from_bf16(values) if self.dtype(name) == "BF16" else np.asarray(values, np.float32)

    def forget_pages(self) -> None:
        """What was read so far need not stay in memory; it is read again where it is used again."""
        for memory in self._maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                memory.madvise(mmap.MADV_DONTNEED)

    def _entry(self, name: str) -> tuple[mmap.mmap, int, str, list[int]]:
        if name not in self._entries:
            raise UnsupportedModel(f"the checkpoint has no tensor {name}")
        return self._entries[name]

    def _open(self, file: Path) -> None:
        try:
            with file.open("rb") as opened:
                memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            if file.suffix == GGUF:
                return self._add_gguf(memory)
            length = int.from_bytes(memory[:8], "little")
            header = json.loads(memory[8 : 8 + length])
            self.metadata |= header.pop("__metadata__", {})
            ends = [8 + length + entry["data_offsets"][1] for entry in header.values()]
            if max(ends, default=0) > len(memory):
                raise ValueError("it is shorter than its header says")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnsupportedModel(f"{file.name} is broken: {error}") from error
        self._maps.append(memory)
        for name, entry in header.items():
            self._entries[name] = (memory, 8 + length + entry["data_offsets"][0], entry["dtype"], entry["shape"])
        return None

    def _add_gguf(self, memory: mmap.mmap) -> None:
        """Raises ValueError and KeyError."""
        tensors = read_gguf(memory).tensors
        for tensor in tensors:
            rows = 1 if len(tensor.shape) == 1 else tensor.shape[0]
            if tensor.start + rows * bytes_of_row(tensor.dtype, tensor.shape[-1]) > len(memory):
                raise ValueError("it is shorter than its head says")
            self._entries[tensor.name] = (memory, tensor.start, tensor.dtype, tensor.shape)
            if tensor.rows_of_heads:
                self._reordered[tensor.name] = source_rows_of(tensor)
        self._maps.append(memory)


def dequantized(rows: Any, dtype: str) -> Any:
    """float32 [rows, columns] of rows of bytes, uint8 [rows, bytes]."""
    return GGUF_READERS[dtype](np.ascontiguousarray(rows))


def source_rows_of(tensor: GgufTensor) -> Any:
    """Where each of transformers' rows lies in the file: llama.cpp keeps the halves of rotary pairs side by side."""
    rows = np.arange(tensor.shape[0])
    if tensor.rows_of_heads:
        rows = rows.reshape(tensor.rows_of_heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return rows


def _floats(rows: Any) -> Any:
    return rows.view(np.float32)


def _halves(rows: Any) -> Any:
    return rows.view(np.float16).astype(np.float32)


def _q8_0(rows: Any) -> Any:
    """A block: a scale in float16, 32 values in int8."""
    blocks = rows.reshape(-1, 34)
    scale = blocks[:, :2].view(np.float16).astype(np.float32)
    return (blocks[:, 2:].view(np.int8).astype(np.float32) * scale).reshape(len(rows), -1)


def _q4_1(rows: Any) -> Any:
    """A block: scale and least value in float16, 32 values of 4 bits; the first half of them in the low bits."""
    blocks = rows.reshape(-1, 20)
    scale, least = (blocks[:, at : at + 2].view(np.float16).astype(np.float32) for at in (0, 2))
    packed = blocks[:, 4:]
    values = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    return (values * scale + least).reshape(len(rows), -1)


GGUF_READERS: Mapping[str, Callable[[Any], Any]] = {"F32": _floats, "F16": _halves, "Q4_1": _q4_1, "Q8_0": _q8_0}


def checkpoint_files(folder: Path) -> list[Path]:
    """The weights' files: those that the index names, or the one that there is. Raises UnsupportedModel."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [folder / name for name in names]
    for name in ("model.safetensors", WEIGHTS):
        if (folder / name).is_file():
            return [folder / name]
    raise UnsupportedModel(f"{folder.name} has neither model.safetensors nor an index of several")


def fingerprint(files: list[Path]) -> list[list[Any]]:
    """What changes when the weights do, without reading them: names, sizes, times.

    A GGUF file's time is that of its package's installation: the folder's name has the package's version.
    """
    times = [0 if file.suffix == GGUF else file.stat().st_mtime_ns for file in files]
    return [[file.name, file.stat().st_size, time] for file, time in zip(files, times, strict=True)]


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
