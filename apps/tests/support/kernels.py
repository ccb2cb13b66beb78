"""The project's kernels for a test: those of this CPU, and those of others by emulation. Skips it where there are none.

An emulated variant runs on any CPU with AVX2, slowly: AVX-512's intrinsics are SIMDe's, AMX's tiles are loops.
"""

from pathlib import Path

import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.opening import Library, own_library
from apps.local.engine.batching.packed_cache import Packer
from apps.local.engine.kernel.build import AVX2, VARIANTS, Variant, cpu_flags
from apps.local.engine.port import NoKernel

SIMDE = Path("/usr/include/simde/x86/avx512.h")
SIMDE_FLAGS = (
    *AVX2.flags,
    "-O1",
    "-w",
    "-DKERNEL_AVX512",
    "-DI(name)=simde_mm512_##name",
    "-include",
    "simde/x86/avx512.h",
)
TILES = ("-DKERNEL_AMX", "-DKERNEL_AMX_EMULATED")
AVX512_OVER_SIMDE = Variant("avx512-vnni-over-simde", AVX2.needs, SIMDE_FLAGS)
EMULATED = (
    Variant("amx-int8-emulated", AVX2.needs, (*AVX2.flags, *TILES)),
    AVX512_OVER_SIMDE,
    Variant("amx-int8-over-simde", AVX2.needs, (*SIMDE_FLAGS, *TILES)),
)


def kernels() -> Library:
    """Built once into the cache folder that all tests share."""
    try:
        return own_library(Settings().model_cache_dir)
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")


def packer(threads: int = 2) -> Packer:
    """Packs weights with them."""
    return Packer(kernels().functions, threads)


def variants_here() -> list[Variant]:
    """Every variant that can compute here, this CPU's own ones first."""
    flags = cpu_flags()
    own = [variant for variant in VARIANTS if variant.needs <= flags]
    emulated = [variant for variant in EMULATED if "simde" not in variant.name or SIMDE.is_file()]
    return [*own, *(variant for variant in emulated if variant.needs <= flags)]


def library_of(variant: Variant) -> Library:
    """Raises NoKernel."""
    return own_library(Settings().model_cache_dir, [variant])
