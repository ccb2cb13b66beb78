"""Packing once: the packed weights as one safetensors file in the cache folder, which later starts only map.

The file's name holds a hash of everything that its content depends on. It is written under another name and renamed,
so that a file under its final name is whole, and several processes may write it at once.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import logging
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.batching.shape import Shape
from apps.local.engine.batching.weights import (
    EMBEDDING,
    Part,
    Tensors,
    Weights,
    addresses_of,
    checkpoint_files,
    fingerprint,
    output_rows,
    parts_of,
    small_tensors,
)
from apps.local.engine.kernel.library import BLOCK, TYPES, pack_blocks, packed_shape
from apps.local.engine.port import UnsupportedModel
from apps.local.gguf import QUANTIZED

log = logging.getLogger(__name__)

LAYOUT_VERSION = 3
SLAB = 512
ABANDONED_AFTER = 3600.0
# takes where a slab begins, in bytes after the header, and its values: uint8 [blocks, width]
Store = Callable[[int, Any], None]
# takes what is being done, and the seconds that it may take yet where they are known
Progress = Callable[[str, float | None, int, int], None]


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs with the kernels of ``library`` on ``threads`` threads; ``progress`` may raise, which ends it."""

    library: ctypes.CDLL
    threads: int
    progress: Progress = lambda *_: None
    clock: Callable[[], float] = time.monotonic


def load_weights(folder: Path, shape: Shape, precision: str, cache_dir: Path, packer: Packer) -> Weights:
    """Maps the packed file, or makes it first. Raises UnsupportedModel.

    Where the cache cannot be written, or its disk is full, the weights are packed into memory, with a warning: each
    start pays again.
    """
    files = checkpoint_files(folder)
    tensors = Tensors(files)
    parts = parts_of(shape, precision)
    target = cache_dir / "packed" / f"{weights_name(folder, shape, precision)}.safetensors"
    if not target.is_file():
        _check_embedding(tensors, packer.library)
        packed = _pack_into_cache(target, parts, tensors, packer)
    else:
        log.info("Packed weights taken from %s", target)
        packed = _mapped(target, parts)
    weights = Weights({part.name: part for part in parts}, packed)
    small_tensors(shape, tensors, weights)
    return weights


def weights_name(folder: Path, shape: Shape, precision: str) -> str:
    """Names the weights as they are packed: another one where anything differs that their values depend on."""
    return f"{folder.name}-{precision}-{_key(folder, checkpoint_files(folder), parts_of(shape, precision))}"


def _key(folder: Path, files: list[Path], parts: Sequence[Part]) -> str:
    kinds = [[part.name, int(part.kind), part.outputs, part.inputs] for part in parts]
    depends_on = [LAYOUT_VERSION, str(folder.resolve()), fingerprint(files), kinds]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:20]


def _check_embedding(tensors: Tensors, library: ctypes.CDLL) -> None:
    """Raises UnsupportedModel for values that are not finite; packing looks at the linear layers itself."""
    values, dtype = tensors.raw(EMBEDDING), tensors.dtype(EMBEDDING)
    if dtype in QUANTIZED:
        slabs = range(0, len(values), SLAB)
        finite = all(np.isfinite(tensors.floats(EMBEDDING, slice(begin, begin + SLAB))).all() for begin in slabs)
    elif dtype in TYPES:
        finite = bool(library.all_finite(values.ctypes.data, TYPES[dtype], values.size))
    else:
        raise UnsupportedModel(f"{EMBEDDING} is of the type {dtype}, none of {', '.join(TYPES)}")
    if not finite:
        raise UnsupportedModel(f"{EMBEDDING} has values that are not finite")


def _pack_into_cache(target: Path, parts: Sequence[Part], tensors: Tensors, packer: Packer) -> Mapping[str, Any]:
    started = time.monotonic()
    header, size = _header(parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        _pack_into_file(target, header, size, parts, tensors, packer)
    except OSError as error:
        log.warning("Packed weights cannot be kept in %s (%s): packing into memory", target.parent, error.strerror)
        memory = mmap.mmap(-1, size)
        values = np.frombuffer(memory, np.uint8)
        _fill(lambda at, slab: np.copyto(values[at : at + slab.size], slab.reshape(-1)), parts, tensors, packer)
        return _arrays(memory, parts)
    log.info("Packed the weights into %s in %.1f s", target, time.monotonic() - started)
    return _mapped(target, parts)


def _pack_into_file(
    target: Path, header: bytes, size: int, parts: Sequence[Part], tensors: Tensors, packer: Packer
) -> None:
    """Raises OSError, on a full disk too: a write through a mapping would end the process there with SIGBUS."""
    descriptor, unfinished = tempfile.mkstemp(prefix=".", suffix=".partial", dir=target.parent)
    writing = threading.Lock()
    try:
        with os.fdopen(descriptor, "r+b", buffering=0) as file:

            def store(at: int, slab: Any) -> None:
                with writing:
                    file.seek(len(header) + at)
                    _write_all(file, slab)

            _write_all(file, np.frombuffer(header, np.uint8))
            file.truncate(len(header) + size)
            _fill(store, parts, tensors, packer)
        Path(unfinished).replace(target)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _write_all(file: io.FileIO, values: Any) -> None:
    """A single write may be cut short where the disk is nearly full."""
    left = memoryview(values.reshape(-1))
    while left:
        left = left[file.write(left) :]


def _remove_abandoned(folder: Path) -> None:
    """Files that a killed process left behind."""
    for file in folder.glob(".*.partial"):
        # another process may be faster
        with contextlib.suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > ABANDONED_AFTER:
                file.unlink()


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


def _arrays(memory: mmap.mmap, parts: Sequence[Part]) -> dict[str, Any]:
    arrays, start = {}, 0
    for part in parts:
        blocks, width = packed_shape(part.kind, part.outputs, part.inputs)
        arrays[part.name] = np.frombuffer(memory, np.uint8, blocks * width, start).reshape(blocks, width)
        start += blocks * width
    return arrays


def _fill(store: Store, parts: Sequence[Part], tensors: Tensors, packer: Packer) -> None:
    """Packs every part, a slab of rows at a time."""

    def slab(part: Part, start: int, width: int, sources: Any, rows: Any, begin: int) -> int:
        end = begin + SLAB
        at, types, _alive = addresses_of(part, tensors, sources[begin:end], rows[begin:end])
        try:
            values = pack_blocks(packer.library, at, types, part.inputs, part.kind)
        except ValueError as error:
            raise UnsupportedModel(f"{', '.join(part.sources)}: {error}") from error
        store(start + begin // BLOCK * width, values)
        return int(values.nbytes)

    began, start, done = packer.clock(), 0, 0
    total = _header(parts)[1]
    with ThreadPoolExecutor(packer.threads, "pack-weights") as pool:
        for part in parts:
            blocks, width = packed_shape(part.kind, part.outputs, part.inputs)
            sources, rows = output_rows(part, tensors)
            for packed in pool.map(partial(slab, part, start, width, sources, rows), range(0, len(rows), SLAB)):
                done += packed
                left = (packer.clock() - began) * (total - done) / done
                packer.progress(f"packing the weights for this CPU: {100 * done // total}%", left, done, total)
            tensors.forget_pages()
            start += blocks * width


def _mapped(target: Path, parts: Sequence[Part]) -> dict[str, Any]:
    tensors = Tensors([target])
    return {part.name: tensors.raw(part.name) for part in parts}
