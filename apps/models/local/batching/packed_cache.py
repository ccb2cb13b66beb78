"""Packing once: the packed weights as one safetensors file in the cache folder, which later starts only map.

The file's name holds a hash of everything that its content depends on. It is written under another name and renamed,
so that a file under its final name is whole, and several processes may write it at once.
"""

import hashlib
import json
import logging
import mmap
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from apps.models.local.batching.errors import UnsupportedModel
from apps.models.local.batching.packing import pack, packed_shape
from apps.models.local.batching.shape import Shape
from apps.models.local.batching.tensors import Tensors, checkpoint_files, fingerprint
from apps.models.local.batching.weights import Part, Weights, parts_of, small_tensors, source_rows

log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
SLAB = 512


def load_weights(folder: Path, shape: Shape, precision: str, cache_dir: Path, threads: int) -> Weights:
    """Maps the packed file, or makes it first. Raises UnsupportedModel.

    Where the cache cannot be written the weights are packed into memory, with a warning: each start pays again.
    """
    files = checkpoint_files(folder)
    tensors = Tensors(files)
    parts = parts_of(shape, precision)
    target = cache_dir / "packed" / f"{folder.name}-{precision}-{_key(folder, files, parts)}.safetensors"
    if not target.is_file():
        packed = _pack_into_cache(target, parts, tensors, threads)
    else:
        log.info("Packed weights taken from %s", target)
        packed = _mapped(target, parts)
    weights = Weights({part.name: part for part in parts}, packed)
    small_tensors(shape, tensors, weights)
    return weights


def _key(folder: Path, files: list[Path], parts: Sequence[Part]) -> str:
    kinds = [[part.name, int(part.kind), part.outputs, part.inputs] for part in parts]
    depends_on = [LAYOUT_VERSION, str(folder.resolve()), fingerprint(files), kinds]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:20]


def _pack_into_cache(target: Path, parts: Sequence[Part], tensors: Tensors, threads: int) -> Mapping[str, Any]:
    started = time.monotonic()
    header, size = _header(parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=target.parent)
    except OSError as error:
        log.warning("Packed weights cannot be kept in %s (%s): packing into memory", target.parent, error.strerror)
        memory = mmap.mmap(-1, len(header) + size)
        _fill(memory, len(header), parts, tensors, threads)
        return _arrays(memory, len(header), parts)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            file.write(header)
            file.truncate(len(header) + size)
            with mmap.mmap(file.fileno(), len(header) + size) as memory:
                _fill(memory, len(header), parts, tensors, threads)
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    log.info("Packed the weights into %s in %.1f s", target, time.monotonic() - started)
    return _mapped(target, parts)


def _header(parts: Sequence[Part]) -> tuple[bytes, int]:
    entries, offset = {}, 0
    for part in parts:
        blocks, width = packed_shape(part.kind, part.outputs, part.inputs)
        entries[part.name] = {
            "dtype": "U8",
            "shape": [blocks, width],
            "data_offsets": [offset, offset + blocks * width],
        }
        offset += blocks * width
    text = json.dumps(entries).encode()
    # the values begin on a cache line's border
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text, offset


def _arrays(memory: mmap.mmap, start: int, parts: Sequence[Part]) -> dict[str, Any]:
    arrays = {}
    for part in parts:
        blocks, width = packed_shape(part.kind, part.outputs, part.inputs)
        arrays[part.name] = np.frombuffer(memory, np.uint8, blocks * width, start).reshape(blocks, width)
        start += blocks * width
    return arrays


def _fill(memory: mmap.mmap, start: int, parts: Sequence[Part], tensors: Tensors, threads: int) -> None:
    arrays = _arrays(memory, start, parts)

    def slab(part: Part, begin: int) -> None:
        rows = source_rows(part, tensors, begin, min(begin + SLAB, part.outputs))
        try:
            values = pack(np.ascontiguousarray(rows), part.kind)
        except ValueError as error:
            raise UnsupportedModel(f"{', '.join(part.sources)}: {error}") from error
        arrays[part.name][begin // 16 : begin // 16 + len(values)] = values

    with ThreadPoolExecutor(threads, "pack-weights") as pool:
        for part in parts:
            list(pool.map(lambda begin, part=part: slab(part, begin), range(0, part.outputs, SLAB)))
            tensors.forget_pages()
    arrays.clear()


def _mapped(target: Path, parts: Sequence[Part]) -> dict[str, Any]:
    tensors = Tensors([target])
    return {part.name: tensors.raw(part.name) for part in parts}
