"""Packing in C++: the bits of packing in numpy, how far it is, and what a checkpoint may not hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.local.engine.batching.packed_cache import load_weights
from apps.local.engine.batching.shape import read_shape
from apps.local.engine.batching.weights import Tensors, interleave
from apps.local.engine.kernel.library import TYPES, Kind, dequantize, from_bf16, pack, pack_blocks, quantize, to_bf16
from apps.local.engine.port import UnsupportedModel
from apps.tests.support.kernels import kernels, packer
from apps.tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.local

AS_TYPE: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "F32": (lambda values: values, lambda stored: stored),
    "F16": (lambda values: values.astype(np.float16), lambda stored: stored.astype(np.float32)),
    "BF16": (to_bf16, from_bf16),
}


def odd_weights() -> Any:
    """37 outputs: usual ones, and groups that are all alike, zeros of both signs, tiny, huge, on the grid already."""
    random = np.random.default_rng(3)
    weights = (random.standard_normal((37, 96)) * 0.05).astype(np.float32)
    weights[1, :32] = 0.25
    weights[2, :32] = np.where(np.arange(32) % 2, np.float32(0), np.float32(-0.0))
    weights[3, 32:64] *= 1e-6
    weights[4, 64:] *= 1e-12
    weights[5, :32] *= 3e5
    weights[6, :32] = np.arange(32) % 16
    weights[7, :32] = 1000 + weights[7, :32] * 1e-3
    weights[8, :32] = np.abs(weights[8, :32])
    weights[9, :32] = -np.abs(weights[9, :32])
    return weights


def packed(weights: Any, kind: Kind, dtype: str) -> Any:
    rows = weights.ctypes.data + np.arange(len(weights), dtype=np.int64) * weights.strides[0]
    rows = np.concatenate([rows, np.zeros(-len(rows) % 16, np.int64)])
    return pack_blocks(kernels().functions, rows, np.full(len(rows), TYPES[dtype], np.int32), weights.shape[1], kind)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", list(Kind))
def test_the_packed_bits_are_those_of_numpy(kind: Kind, dtype: str) -> None:
    to, back = AS_TYPE[dtype]
    stored = np.ascontiguousarray(to(odd_weights()))
    assert np.array_equal(packed(stored, kind, dtype), pack(back(stored), kind))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 65504.0, -1e6])
@pytest.mark.parametrize("kind", [Kind.INT4, Kind.INT8])
def test_weights_that_cannot_be_quantized_are_refused(kind: Kind, wrong: float) -> None:
    weights = odd_weights()
    weights[33, 70] = wrong
    with pytest.raises(ValueError, match="not finite"):
        packed(weights, kind, "F32")
    with pytest.raises(ValueError, match="not finite"):
        pack(weights, kind)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-4])
def test_groups_of_small_weights_keep_their_values(bits: Any, spread: float) -> None:
    """Their step is below what has an inverse in float16, and is rounded to a multiple of 2^-24."""
    weights = (np.random.default_rng(0).uniform(-spread, spread, (16, 64))).astype(np.float32)
    error = np.abs(dequantize(*quantize(weights, bits)) - weights).max()
    top = 2**bits - 1
    assert error < spread / top + spread * 2**-10 + (top + 1) * 2**-25


def reference(folder: Path, precision: str) -> dict[str, Any]:
    """What the parts of the tiny checkpoint are, packed by numpy."""
    tensors, kind = Tensors([folder / "model.safetensors"]), Kind[precision.upper()]

    def rows(name: str) -> Any:
        return tensors.floats(f"{name}.weight")

    parts = {"head": rows("lm_head")}
    for layer in range(2):
        at = f"model.layers.{layer}."
        parts[f"{layer}.qkv"] = np.concatenate([rows(f"{at}self_attn.{name}_proj") for name in "qkv"])
        parts[f"{layer}.o"] = rows(f"{at}self_attn.o_proj")
        parts[f"{layer}.gate_up"] = interleave([rows(f"{at}mlp.{name}_proj") for name in ("gate", "up")])
        parts[f"{layer}.down"] = rows(f"{at}mlp.down_proj")
    return {name: pack(values, kind) for name, values in parts.items()}


@pytest.mark.parametrize("precision", ["int4", "int8", "bf16", "fp32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_part_has_its_sources_rows_in_their_places(precision: str, threads: int, tmp_path: Path) -> None:
    # 100 words: the last block of the head is not full
    folder = write_tiny_checkpoint(tmp_path / "model", vocab_size=100)
    found = load_weights(folder, read_shape(folder), precision, tmp_path, packer(threads)).packed
    expected = reference(folder, precision)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_how_far_it_is_is_reported_and_the_second_start_packs_nothing(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    told: list[tuple[str, float | None, int, int]] = []
    seconds = iter(range(1000))
    telling = replace(packer(), progress=lambda *step: told.append(step), clock=lambda: float(next(seconds)))
    load_weights(folder, read_shape(folder), "int4", tmp_path, telling)
    done = [int(step.removeprefix("packing the weights for this CPU: ").removesuffix("%")) for step, *_ in told]
    assert done == sorted(done) and 0 < done[0] < done[-1] == 100
    left = [seconds_left for _, seconds_left, *_ in told]
    # a second a slab: after the first of n slabs there are about as many seconds left as its share says
    assert left[0] == pytest.approx((100 - done[0]) / done[0], rel=0.2)
    assert left[-1] == 0
    assert [100 * packed // total for *_, packed, total in told] == done
    told.clear()
    load_weights(folder, read_shape(folder), "int4", tmp_path, telling)
    assert told == []


class Ended(Exception):
    """What a closed model's report raises."""


def test_a_report_that_raises_ends_the_packing_and_leaves_no_file(tmp_path: Path) -> None:
    def end(*_: object) -> None:
        raise Ended

    folder = write_tiny_checkpoint(tmp_path / "model")
    with pytest.raises(Ended):
        load_weights(folder, read_shape(folder), "int4", tmp_path, replace(packer(), progress=end))
    assert list((tmp_path / "packed").iterdir()) == []


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.layers.1.mlp.up_proj"])
def test_a_checkpoint_with_a_weight_that_is_no_number_is_refused_by_name(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_tiny_checkpoint(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{name}.weight"][-1, -1] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=name):
        load_weights(folder, read_shape(folder), "int4", tmp_path, packer())
