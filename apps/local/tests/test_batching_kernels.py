"""The kernels against float arithmetic: the library for this CPU, and the AVX-512 one over SIMDe's intrinsics."""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.opening import own_library
from apps.local.engine.kernel import build as building
from apps.local.engine.kernel.build import (
    AMX,
    ARM,
    AVX2,
    AVX512,
    AVX512_BF16,
    FLAGS,
    NEON,
    NEON_I8MM,
    SOURCES,
    X86,
    Variant,
    build,
    cpu_flags,
    usable_variants,
)
from apps.local.engine.kernel.library import (
    Kind,
    dequantize,
    from_bf16,
    linear_once,
    load_library,
    pack,
    quantize,
    to_bf16,
)
from apps.local.engine.port import NoKernel
from apps.tests.support.kernels import AVX512_OVER_SIMDE, SIMDE


def usable(needs: frozenset[str]) -> bool:
    try:
        building.compiler()
    except NoKernel:
        return False
    return needs <= cpu_flags()


pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(not usable(AVX2.needs), reason="needs a C++ compiler and a CPU with AVX2, FMA and F16C"),
]


VARIANTS = {variant.name: variant for variant in building.VARIANTS}


@pytest.fixture(scope="module", params=[*VARIANTS, pytest.param(AVX512_OVER_SIMDE.name, marks=pytest.mark.long)])
def variant(request: pytest.FixtureRequest) -> Variant:
    """Of the kernels: each that this CPU runs, and AVX-512's over SIMDe's intrinsics, which needs no such CPU."""
    if request.param in VARIANTS:
        if not usable(VARIANTS[request.param].needs):
            pytest.skip(f"this CPU does not run {request.param}")
        return VARIANTS[request.param]
    if not SIMDE.is_file():
        pytest.skip("SIMDe is not installed (Debian: libsimde-dev)")
    return AVX512_OVER_SIMDE


@pytest.fixture(scope="module")
def library(variant: Variant) -> ctypes.CDLL:
    return load_library(build(variant, Settings().model_cache_dir))


@pytest.fixture(scope="module")
def functions(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The small functions, which the library does not show."""
    source = Path(__file__).parent / "kernel_functions.cpp"
    library = ctypes.CDLL(str(compiled(variant, source, tmp_path_factory.mktemp("functions") / "functions.so")))
    address, count = ctypes.c_void_p, ctypes.c_int64
    library.rms_norm_once.argtypes = [address, address, ctypes.c_float, count, address]
    library.silu_mul_once.argtypes = [address, address, count, address]
    library.rotate_once.argtypes = [address, address, address, count]
    library.attend_once.argtypes = [address, count, address, address, count, count, ctypes.c_int, address]
    return library


def compiled(variant: Variant, source: Path, target: Path) -> Path:
    command = [*building.compiler(), *FLAGS, *variant.flags, f"-I{SOURCES}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def random_weights(seed: int, outputs: int, inputs: int) -> Any:
    return (np.random.default_rng(seed).standard_normal((outputs, inputs)) * 0.05).astype(np.float32)


def seen_weights(weights: Any, kind: Kind) -> Any:
    """What the kernel can know of them."""
    if kind in (Kind.INT4, Kind.INT8):
        return dequantize(*quantize(weights, 4 if kind is Kind.INT4 else 8))
    return from_bf16(to_bf16(weights)) if kind is Kind.BF16 else weights


def seen_inputs(x: Any, kind: Kind) -> Any:
    """Inputs of quantized weights are rounded to int8 by groups of 32."""
    if kind in (Kind.BF16, Kind.FP32):
        return x
    groups = x.reshape(len(x), -1, 32)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    rounded = np.rint(np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0))
    return (rounded * scale).reshape(x.shape)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.long
def test_linear_equals_float_arithmetic_over_random_shapes(library: ctypes.CDLL, kind: Kind, seed: int) -> None:
    random = np.random.default_rng(seed)
    outputs, inputs, rows = int(random.integers(1, 90)), 32 * int(random.integers(1, 12)), int(random.integers(1, 24))
    weights = random_weights(seed, outputs, inputs)
    x = random.standard_normal((rows, inputs)).astype(np.float32)
    bias = random.standard_normal(-(-outputs // 16) * 16).astype(np.float32)
    got = linear_once(library, pack(weights, kind), kind, x, bias)[:, :outputs]
    expected = seen_inputs(x, kind).astype(np.float64) @ seen_weights(weights, kind).T + bias[:outputs]
    assert np.linalg.norm(got - expected) < 2e-3 * np.linalg.norm(expected)
    exact = x.astype(np.float64) @ seen_weights(weights, kind).T + bias[:outputs]
    assert np.linalg.norm(got - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.long
def test_a_row_has_the_same_bits_alone_and_among_others(library: ctypes.CDLL, kind: Kind) -> None:
    weights, x = pack(random_weights(1, 48, 160), kind), random_weights(2, 17, 160)
    together = linear_once(library, weights, kind, x)
    for rows in (1, 2, 3, 5, 8):
        parts = [linear_once(library, weights, kind, x[start : start + rows]) for start in range(0, 17, rows)]
        assert np.array_equal(np.concatenate(parts), together)


@pytest.mark.parametrize("kind", list(Kind))
def test_nan_zeros_and_outliers_stay_in_their_row(library: ctypes.CDLL, kind: Kind) -> None:
    weights = random_weights(3, 32, 96)
    x = random_weights(4, 6, 96)
    x[1, 40], x[2, 5], x[3], x[4, 70] = np.nan, np.inf, 0, 1e30
    got = linear_once(library, pack(weights, kind), kind, x)
    plain = linear_once(library, pack(weights, kind), kind, random_weights(4, 6, 96))
    assert np.array_equal(got[[0, 5]], plain[[0, 5]])
    assert np.isnan(got[1]).all()
    assert not np.isfinite(got[2]).any()
    assert np.array_equal(got[3], np.zeros(32))
    expected = x[4].astype(np.float64) @ seen_weights(weights, kind).T
    assert np.allclose(got[4], expected, rtol=0.02)


@pytest.mark.parametrize("kind", [Kind.INT4, Kind.INT8])
def test_the_largest_sums_do_not_saturate(library: ctypes.CDLL, kind: Kind) -> None:
    """All weights at the top of the grid, all inputs at 127: the products of a group are as large as they get."""
    weights = np.ones((16, 64), np.float32)
    weights[:, ::32] = 0
    x = np.concatenate([np.ones((1, 64)), -np.ones((1, 64))]).astype(np.float32)
    got = linear_once(library, pack(weights, kind), kind, x)
    assert np.allclose(got, np.array([[62.0], [-62.0]]) * np.ones(16), rtol=1e-3)


def test_weights_that_are_no_numbers_are_refused() -> None:
    for wrong in (np.nan, np.inf, 1e6):
        weights = random_weights(5, 16, 32)
        weights[3, 3] = wrong
        with pytest.raises(ValueError, match="not finite"):
            pack(weights, Kind.INT4)


@pytest.mark.parametrize("size", [32, 64, 576])
@pytest.mark.long
def test_norm_silu_and_rotation_equal_float_arithmetic(functions: ctypes.CDLL, size: int) -> None:
    random = np.random.default_rng(size)
    x, y = (random.standard_normal(size).astype(np.float32) * 5 for _ in range(2))
    to = np.empty(size, np.float32)
    functions.rms_norm_once(x.ctypes.data, y.ctypes.data, 1e-5, size, to.ctypes.data)
    assert np.allclose(to, x / np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-5) * y, rtol=1e-5)
    x[:4] = [0, -200, 200, np.nan]
    functions.silu_mul_once(x.ctypes.data, y.ctypes.data, size, to.ctypes.data)
    with np.errstate(over="ignore"):
        expected = x / (1 + np.exp(-x.astype(np.float64))) * y
    assert np.allclose(to, expected, rtol=1e-5, atol=1e-7, equal_nan=True)
    head, angles = random.standard_normal(size).astype(np.float32), random.standard_normal(size // 2)
    cos, sin, rotated = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32), head.copy()
    functions.rotate_once(rotated.ctypes.data, cos.ctypes.data, sin.ctypes.data, size)
    turned = (head[: size // 2] + 1j * head[size // 2 :]) * (cos + 1j * sin)
    assert np.allclose(rotated, np.concatenate([turned.real, turned.imag]), atol=1e-5)


@pytest.mark.parametrize(("positions", "size", "rows"), [(1, 16, 1), (15, 64, 2), (16, 128, 5), (333, 80, 6)])
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.long
def test_attention_equals_float_arithmetic(
    functions: ctypes.CDLL, positions: int, size: int, rows: int, kind: int
) -> None:
    random = np.random.default_rng(positions)
    queries = random.standard_normal((rows, size)).astype(np.float32) * 2
    keys, values = (random.standard_normal((positions, size)).astype(np.float32) for _ in range(2))
    values[0, 0] = 3 if kind == 2 else 1e5
    out = np.empty((rows, size), np.float32)
    addresses = [a.ctypes.data for a in (keys, values)]
    functions.attend_once(queries.ctypes.data, rows, *addresses, positions, size, kind, out.ctypes.data)
    values[0, 0] = (1e5, 65504, 3)[kind]
    off = (1e-5, 1e-2, 5e-2)[kind]
    for row in range(rows):
        seen = positions - rows + row + 1
        scores = keys[:seen].astype(np.float64) @ queries[row] / np.sqrt(size)
        chances = np.exp(scores - scores.max())
        expected = chances / chances.sum() @ values[:seen]
        assert np.allclose(out[row], expected, rtol=10 * off if kind == 0 else off, atol=off)


@pytest.mark.long
def test_a_built_library_is_taken_again(tmp_path: Path) -> None:
    made = build(AVX2, tmp_path)
    written = made.stat().st_mtime_ns
    assert build(AVX2, tmp_path) == made
    assert made.stat().st_mtime_ns == written
    assert [file.name for file in made.parent.iterdir()] == [made.name]


def test_without_a_compiler_building_says_so_and_does_not_fail(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apps.local.engine.kernel.build", str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "there is no C++ compiler" in done.stdout


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(NoKernel, match="cannot be loaded"):
        load_library(broken)


@pytest.mark.long
def test_a_kernel_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """The layout in the source is changed: it builds and loads, and the self check finds it out."""
    for source in building.source_files():
        text = source.read_text().replace(
            "const __m256i low = _mm256_set1_epi8(15)", "const __m256i low = _mm256_set1_epi8(7)"
        )
        (tmp_path / source.name).write_text(text)
    made = tmp_path / "wrong.so"
    subprocess.run(
        [*building.compiler(), *FLAGS, *AVX2.flags, "-O1", str(tmp_path / "step.cpp"), "-o", str(made)], check=True
    )
    with pytest.raises(NoKernel, match="wrongly"):
        load_library(made)


def test_a_cpu_without_the_instructions_is_told_apart() -> None:
    assert usable_variants(AMX.needs, X86) == [AMX, AVX512_BF16, AVX512, AVX2]
    assert usable_variants(AVX512.needs, X86) == [AVX512, AVX2]
    assert usable_variants(NEON_I8MM.needs, ARM) == [NEON_I8MM, NEON]
    with pytest.raises(NoKernel, match="lacks f16c"):
        usable_variants(AVX2.needs - {"f16c"}, X86)
    with pytest.raises(NoKernel, match="lacks asimddp"):
        usable_variants(frozenset(), ARM)
    with pytest.raises(NoKernel, match="x86-64 and ARM"):
        usable_variants(frozenset(), ())


@pytest.mark.long
def test_kernels_that_do_not_serve_leave_the_place_to_the_next_ones(tmp_path: Path) -> None:
    unknown = Variant("better", AVX2.needs, (*AVX2.flags, "-mno-such-registers"))
    library = own_library(tmp_path, [unknown, AVX2])
    assert library.name == "avx2"
    assert "not better ones: the kernels do not compile" in library.reason
    with pytest.raises(NoKernel, match="do not compile"):
        own_library(tmp_path, [unknown])


@pytest.mark.parametrize("flags", [AMX.flags, AVX512_BF16.flags], ids=["amx-int8", "avx512-bf16"])
@pytest.mark.long
def test_every_variant_of_this_kind_of_machine_compiles(flags: tuple[str, ...], tmp_path: Path) -> None:
    command = [*building.compiler(), *FLAGS, *flags, "-O1", str(SOURCES / "step.cpp"), "-o", str(tmp_path / "made.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]


# --- every variant's bits

BITS = Path(__file__).with_name("kernel_bits.cpp")
PROGRAM = tuple(flag for flag in FLAGS if flag not in ("-shared", "-O3"))
CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def bits(compiler: Sequence[str], flags: Sequence[str], program: Path, emulator: Sequence[str] = ()) -> str:
    """What a build of the tiny model prints: all bits of its logits, over steps of many widths."""
    subprocess.run([*compiler, *PROGRAM, "-O1", *flags, f"-I{SOURCES}", str(BITS), "-o", str(program)], check=True)
    return subprocess.run([*emulator, str(program)], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def avx2_bits(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = bits(building.compiler(), AVX2.flags, tmp_path_factory.mktemp("bits") / "avx2")
    values = np.array([int(line, 16) for line in found.split()], np.uint32).view(np.float32)
    assert len(values) > 10_000
    assert np.isfinite(values).all() and values.std() > 0.1
    return found


@pytest.mark.long
def test_amx_has_the_bits_of_avx2(avx2_bits: str, tmp_path: Path) -> None:
    flags = (*AVX2.flags, "-DKERNEL_AMX", "-DKERNEL_AMX_EMULATED")
    assert bits(building.compiler(), flags, tmp_path / "amx") == avx2_bits


@pytest.mark.parametrize("arm", [NEON, NEON_I8MM], ids=lambda variant: variant.name)
@pytest.mark.long
def test_arm_has_the_bits_of_avx2(avx2_bits: str, arm: Variant, tmp_path: Path) -> None:
    if not (shutil.which(CROSS) and shutil.which(EMULATOR)):
        pytest.skip("needs Debian's g++-aarch64-linux-gnu and qemu-user")
    emulator = (EMULATOR, "-cpu", "max")
    assert bits([CROSS, "-static", "-Wno-psabi"], arm.flags, tmp_path / arm.name, emulator) == avx2_bits


@pytest.mark.long
def test_this_cpu_s_kernels_have_the_bits_of_avx2(avx2_bits: str, tmp_path: Path) -> None:
    for variant in usable_variants(cpu_flags(), X86):
        if variant is not AMX:  # a program of its own would have to ask for the permission
            assert bits(building.compiler(), variant.flags, tmp_path / variant.name) == avx2_bits
