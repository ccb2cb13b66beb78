"""Every shape that is taken computes what transformers does; every other is refused. Tiny models, random weights."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.opening import Memory, plan_memory
from apps.local.engine.batching.packed_cache import Packer, load_weights
from apps.local.engine.batching.shape import read_shape
from apps.local.engine.batching.step import Step
from apps.local.engine.batching.torch_step import TorchStep
from apps.local.engine.kernel.build import AVX2, build, cpu_flags
from apps.local.engine.kernel.library import load_library
from apps.local.engine.kernel.native_step import NativeStep, cache_bytes
from apps.local.engine.port import NoKernel, UnsupportedModel

pytestmark = pytest.mark.local

SIZES: dict[str, Any] = {
    "vocab_size": 75,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TAKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, one head for each": ("Llama", {"num_key_value_heads": 4, "head_dim": 32}),
    "llama, three queries a head": ("Llama", {"hidden_size": 96, "num_attention_heads": 6, "head_dim": 32}),
    "llama, llama3 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, linear rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama, biases everywhere": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("Llama", {"head_dim": 48}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}
WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral, window": ("Mistral", {"sliding_window": 6}),
    "qwen2, window in one layer": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen2, window not used": ("Qwen2", {"use_sliding_window": False, "sliding_window": 6}),
    "qwen3, window": (
        "Qwen3",
        {"head_dim": 32, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
}
TOKENS = [3, 17, 44, 5, 70, 2, 9, 31, 30, 29, 28, 64, 11, 12, 13, 14, 15, 16, 1, 74, 33]


def checkpoint(folder: Path, kind: str, changes: dict[str, Any], dtype: str = "float32") -> Any:
    """A random model of transformers, saved; biases and norms are not the zeros and ones they begin as."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return model


def native(folder: Path, cache_dir: Path, precision: str = "fp32", threads: int = 2) -> NativeStep:
    try:
        library = load_library(build(AVX2, Settings().model_cache_dir))
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")
    shape = read_shape(folder)
    weights = load_weights(folder, shape, precision, cache_dir, Packer(library, 2))
    return NativeStep(library, "avx2", shape, weights, shape.context_length, threads, 64)


# threads of this process take a GiB of addresses each, and there are some for two more
FEW_THREADS = """
import ctypes, os, resource, sys
from pathlib import Path
from apps.core.settings import Settings
from apps.local.engine.batching.packed_cache import Packer, load_weights
from apps.local.engine.batching.shape import read_shape
from apps.local.engine.kernel.build import AVX2, build
from apps.local.engine.kernel.library import load_library
from apps.local.engine.kernel.native_step import NativeStep
from apps.local.engine.port import NoKernel

def step(threads):
    return NativeStep(library, "avx2", shape, weights, shape.context_length, threads, 64)

folder, GIB = Path(sys.argv[1]), 1 << 30
library, shape = load_library(build(AVX2, Settings().model_cache_dir)), read_shape(folder)
weights = load_weights(folder, shape, "fp32", folder / "cache", Packer(library, 2))
libc, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(64)
assert not libc.pthread_attr_init(attributes)
assert not libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(GIB))
assert not libc.pthread_setattr_default_np(attributes)
addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (addresses + 5 * GIB // 2, resource.RLIM_INFINITY))
before = len(os.listdir("/proc/self/task"))
try:
    step(4)
except NoKernel as error:
    print(error)
print(len(os.listdir("/proc/self/task")) - before)
two = step(2)
print(two.run([3, 17], [0, 1], [two.new_cache()] * 2, [1]).shape)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="limits and counts threads by Linux's means")
def test_threads_that_cannot_be_started_are_an_error_and_leave_none_behind(tmp_path: Path) -> None:
    checkpoint(tmp_path, "Llama", {})
    native(tmp_path, tmp_path / "cache")
    command = [sys.executable, "-c", FEW_THREADS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["no memory or no threads for 64 rows on 4 threads", "0", "(1, 75)"],
    ), done.stderr


def logits_of(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([TOKENS])).logits[0].float().numpy()


def in_pieces(step: Step, sizes: list[int]) -> Any:
    """The tokens' logits, computed in chunks."""
    cache, start, found = step.new_cache(), 0, []
    for size in sizes:
        positions = list(range(start, start + size))
        found.append(step.run([TOKENS[at] for at in positions], positions, [cache] * size, list(range(size))))
        start += size
    return np.concatenate(found)


needs_avx2 = pytest.mark.skipif(not AVX2.needs <= cpu_flags(), reason="the kernels need AVX2, FMA and F16C")


@needs_avx2
@pytest.mark.parametrize("name", TAKEN)
def test_the_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    expected = logits_of(checkpoint(tmp_path / "model", *TAKEN[name]))
    step = native(tmp_path / "model", tmp_path)
    got = in_pieces(step, [len(TOKENS)])
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    assert np.array_equal(in_pieces(step, [7, 1, 1, 5, 1, 6]), got)
    step.close()


@needs_avx2
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no thread on one core")
def test_threads_without_cores_leave_the_team_and_the_logits_are_the_same(tmp_path: Path) -> None:
    """Four threads on one core cannot use more than one core's time together."""
    checkpoint(tmp_path / "model", "Llama", {})
    alone = native(tmp_path / "model", tmp_path, threads=1)
    expected = in_pieces(alone, [len(TOKENS)])
    alone.close()
    cores = os.sched_getaffinity(0)
    # of this thread, and of those that it starts
    os.sched_setaffinity(0, {min(cores)})
    try:
        crowded = native(tmp_path / "model", tmp_path, threads=4)
        assert crowded.team == 4
        places = list(range(len(TOKENS)))
        caches = [crowded.new_cache()] * len(TOKENS)
        for _ in range(200):
            assert np.array_equal(crowded.run(TOKENS, places, caches, places), expected)
        assert crowded.team == 1
        crowded.close()
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("name", [*TAKEN, *WINDOWED])
def test_torch_s_own_kernels_compute_the_same(name: str, tmp_path: Path) -> None:
    expected = logits_of(checkpoint(tmp_path / "model", *(TAKEN | WINDOWED)[name]))
    shape = read_shape(tmp_path / "model")
    step = TorchStep(tmp_path / "model", shape, "fp32", shape.context_length, 2, 64)
    for sizes in ([len(TOKENS)], [7, 1, 1, 5, 1, 6]):
        got = in_pieces(step, sizes)
        assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    first, second = step.new_cache(), step.new_cache()
    step.run(TOKENS[:10], range(10), [first] * 10, [])
    step.copy_prefix(first, second, 9)
    got = step.run([TOKENS[10], *TOKENS[9:12]], [10, 9, 10, 11], [first] + [second] * 3, [0, 3])
    assert np.linalg.norm(got - expected[[10, 11]]) < 1e-5 * np.linalg.norm(expected)


@needs_avx2
@pytest.mark.parametrize(("precision", "off"), [("bf16", 0.01), ("int8", 0.03), ("int4", 0.4)])
@pytest.mark.parametrize("name", ["llama, tied", "qwen3"])
def test_the_other_precisions_are_near(name: str, precision: str, off: float, tmp_path: Path) -> None:
    expected = logits_of(checkpoint(tmp_path / "model", *TAKEN[name]))
    step = native(tmp_path / "model", tmp_path, precision)
    got = in_pieces(step, [9, 12])
    assert np.linalg.norm(got - expected) < off * np.linalg.norm(expected)
    assert np.array_equal(in_pieces(step, [1] * len(TOKENS)), got)
    step.close()


@needs_avx2
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_half_precision_are_read_as_they_are(dtype: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", *TAKEN["qwen2"], dtype)
    transformers = importlib.import_module("transformers")
    expected = logits_of(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="float32").eval())
    step = native(tmp_path / "model", tmp_path)
    got = in_pieces(step, [len(TOKENS)])
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    step.close()


@needs_avx2
def test_sequences_in_one_step_do_not_touch_each_other(tmp_path: Path) -> None:
    """Prompt chunks and next tokens of several sequences side by side, each with the bits it has alone."""
    checkpoint(tmp_path / "model", *TAKEN["llama"])
    step = native(tmp_path / "model", tmp_path, "int4")
    alone = in_pieces(step, [len(TOKENS)])
    first, second, copied = step.new_cache(), step.new_cache(), step.new_cache()
    for cache in (first, second, copied):
        step.reserve(cache, len(TOKENS))
    for cache in (first, second, copied):
        # what another sequence left in the blocks does not count
        step.write_block(cache, 0, 32, np.full(len(step.read_block(cache, 0, 32)) // 2, np.nan, np.float16).tobytes())
    step.run(TOKENS[:10], range(10), [first] * 10, [])
    tokens, positions = [TOKENS[10], *TOKENS[:20]], [10, *range(20)]
    got = step.run(tokens, positions, [first] + [second] * 20, [0, 20])
    assert np.array_equal(got, alone[[10, 19]])
    step.copy_prefix(second, copied, 13)
    got = step.run([TOKENS[13], TOKENS[20], TOKENS[11]], [13, 20, 11], [copied, second, first], [0, 1, 2])
    assert np.array_equal(got, alone[[13, 20, 11]])
    step.close()


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        ("Llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("Llama", {"hidden_size": 40, "head_dim": 16}, "hidden_size"),
        ("Llama", {"head_dim": 24}, "head_dim"),
        ("Llama", {"num_key_value_heads": 4}, "head_dim x queries"),
        ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("Llama", {"rope_parameters": {**LLAMA3, "rope_type": "yarn"}}, "yarn"),
        ("Llama", {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ("Llama", {"quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_other_shapes_are_refused_by_name(kind: str, changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{kind}Config")(**SIZES).to_dict()
    config |= {"architectures": [f"{kind}ForCausalLM"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=word):
        read_shape(tmp_path)


@needs_avx2
def test_tensors_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint(tmp_path / "model", "Llama", {})
    file = tmp_path / "model" / "model.safetensors"
    save_file({**load_file(file), "model.layers.0.self_attn.sinks": np.zeros(4, np.float32)}, file)
    with pytest.raises(UnsupportedModel, match="sinks"):
        native(tmp_path / "model", tmp_path)


def test_a_sliding_window_does_not_bound_the_context(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.MistralConfig(**SIZES, sliding_window=48).to_dict() | {
        "architectures": ["MistralForCausalLM"]
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = read_shape(tmp_path)
    assert (shape.context_length, shape.windows) == (128, (48, 48))
    (tmp_path / "config.json").write_text(json.dumps(config | {"sliding_window": 128}))
    assert read_shape(tmp_path).windows == (None, None)


def test_memory_bounds_the_context_and_is_stated(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.LlamaConfig(**{**SIZES, "max_position_embeddings": 4096}).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    shape = read_shape(tmp_path)
    a_token = cache_bytes(shape, "float32")
    assert a_token == 2 * 2 * 2 * 16 * 4
    assert plan_memory(shape, a_token, 4, None) == Memory(6, 4096, 6 * 4096, 6 * 4096 * a_token)
    tight = plan_memory(shape, a_token, 4, 2 * 6000 * a_token)
    assert (tight.context_length, tight.tokens, tight.most_bytes) == (4096, 5952, 5952 * a_token)
    assert plan_memory(shape, a_token, 4, None, 1000 * a_token).context_length == 960
    whole = plan_memory(shape, a_token, 4, 2 * 6 * 1000 * a_token, whole=True)
    assert whole.context_length == 992
    for made in ({"free": 2 * 200 * a_token}, {"free": None, "most": 200 * a_token}):
        with pytest.raises(UnsupportedModel, match="memory"):
            plan_memory(shape, a_token, 4, **made)


def test_int8_keys_and_values_take_about_half(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.LlamaConfig(**{**SIZES, "head_dim": 64}).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    shape = read_shape(tmp_path)
    assert cache_bytes(shape, "int8") == cache_bytes(shape, "float16") * 66 // 128


@needs_avx2
@pytest.mark.parametrize("cut", [4, 5000])
def test_a_broken_file_is_refused_by_name(cut: int, tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", "Llama", {})
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors is broken"):
        native(tmp_path / "model", tmp_path)
