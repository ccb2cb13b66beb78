"""GGUF files of the Llama architecture, read as they are: metadata, and tensors under transformers' names.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Q4_1 and Q8_0 are block formats of ggml. A
checkpoint's folder is made of a file: its config and tokenizer; the weights stay where they are. Only the
standard library is needed; the engine's weights.py reads the tensors.
"""

import json
import mmap
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# of the metadata's values, by their numbers in the format
SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
BLOCK = 32
# in a checkpoint's folder
WEIGHTS = "model.gguf"

TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
TOP |= {"output.weight": "lm_head.weight"}
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor under transformers' name. ``rows_of_heads`` heads have their rows in llama.cpp's rotary order."""

    name: str
    dtype: str
    shape: list[int]
    start: int
    rows_of_heads: int = 0


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The head of a file. Raises ValueError for one of another format or architecture."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf(memory: mmap.mmap | bytes) -> GgufFile:
    reader = _Reader(memory)
    if reader.take(4) != MAGIC or reader.number("<I") not in VERSIONS:
        raise ValueError("it is no GGUF file of version 2 or 3")
    tensor_count, value_count = reader.number("<Q"), reader.number("<Q")
    metadata = {reader.text(): reader.value(reader.number("<I")) for _ in range(value_count)}
    if metadata.get("general.architecture") != "llama":
        raise ValueError(f"it is of the architecture {metadata.get('general.architecture')}, not llama")
    found = [_described(reader) for _ in range(tensor_count)]
    alignment = int(metadata.get("general.alignment", 32))
    begin = -(-reader.at // alignment) * alignment
    heads = {"attn_q": metadata["llama.attention.head_count"], "attn_k": metadata["llama.attention.head_count_kv"]}
    tensors = tuple(
        GgufTensor(hub_name(name), KINDS[kind].name, shape, begin + offset, _heads_of(name, heads))
        for name, shape, kind, offset in found
    )
    return GgufFile(metadata, tensors)


def hub_name(name: str) -> str:
    """transformers' name of llama.cpp's tensor ``name``."""
    if name in TOP:
        return TOP[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in LAYER:
        raise ValueError(f"Tensor {name} is none of a Llama's")
    return f"model.layers.{match[1]}.{LAYER[match[2]]}.weight"


def bytes_of_row(dtype: str, columns: int) -> int:
    kind = BY_NAME[dtype]
    return columns // kind.values * kind.size


def _described(reader: "_Reader") -> tuple[str, list[int], int, int]:
    name = reader.text()
    shape = [reader.number("<Q") for _ in range(reader.number("<I"))][::-1]
    kind, offset = reader.number("<I"), reader.number("<Q")
    if kind not in KINDS:
        raise ValueError(f"{name} is of ggml's type {kind}, which is not read here")
    return name, shape, kind, offset


def _heads_of(name: str, heads: Mapping[str, int]) -> int:
    return next((count for part, count in heads.items() if f".{part}." in name), 0)


class _Reader:
    """Takes values one after another. Raises ValueError where the file ends before they do."""

    def __init__(self, memory: mmap.mmap | bytes) -> None:
        self._memory = memory
        self.at = 0

    def take(self, size: int) -> bytes:
        taken = self._memory[self.at : self.at + size]
        if len(taken) < size:
            raise ValueError("it ends within its head")
        self.at += size
        return bytes(taken)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            if kind not in SCALARS:
                raise ValueError(f"a value is of the type {kind}, which the format has not")
            return self.number(SCALARS[kind])
        of, count = self.number("<I"), self.number("<Q")
        if of in SCALARS:
            form = SCALARS[of].lstrip("<")
            return list(struct.unpack(f"<{count}{form}", self.take(count * struct.calcsize(f"<{form}"))))
        return [self.value(of) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A block of ``values`` numbers takes ``size`` bytes."""

    name: str
    values: int
    size: int


KINDS = {
    0: _Kind("F32", 1, 4),
    1: _Kind("F16", 1, 2),
    3: _Kind("Q4_1", BLOCK, 20),
    8: _Kind("Q8_0", BLOCK, 34),
}
BY_NAME = {kind.name: kind for kind in KINDS.values()}
QUANTIZED = frozenset({"Q4_1", "Q8_0"})


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
    _write_json(folder / "config.json", config_of(metadata, tied=tied))
    _write_json(folder / "tokenizer.json", tokenizer_of(metadata))
    _write_json(folder / "tokenizer_config.json", _special_tokens(metadata))
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
    ids = {name: metadata.get(f"tokenizer.ggml.{gguf_name}_token_id") for name, gguf_name in names.items()}
    return {name: tokens[i] for name, i in ids.items() if i is not None}


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _link(gguf: Path, target: Path) -> None:
    """The file is there already, in its package; on a system that takes no links it is copied."""
    try:
        target.symlink_to(gguf)
    except (OSError, NotImplementedError):
        shutil.copyfile(gguf, target)
