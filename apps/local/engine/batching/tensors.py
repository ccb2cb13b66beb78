"""A checkpoint's safetensors or GGUF files, mapped: nothing is read before it is used, nothing is unpickled.

numpy has no bfloat16, so the files are read here directly: eight bytes with the header's length, the header in JSON,
the values (https://github.com/huggingface/safetensors#format). A GGUF file's blocks are dequantized row by row.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.kernel.errors import UnsupportedModel
from apps.local.engine.kernel.packing import from_bf16
from apps.local.gguf import QUANTIZED, WEIGHTS, bytes_of_row, dequantized, read_gguf, source_rows_of

GGUF = ".gguf"
TYPES: Mapping[str, Any] = {
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
        if dtype not in TYPES:
            raise UnsupportedModel(f"{name} is of the type {dtype}")
        kind = np.dtype(TYPES[dtype])
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
