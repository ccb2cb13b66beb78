"""Building the kernels: `python -m apps.local.engine.kernel.build [FOLDER]`, a few seconds.

One shared library a kind of CPU, named by a hash of the sources and the flags, so that a built one is never built
again and an old one never taken. Without a compiler nothing is built and nothing fails: torch's kernels serve then.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.local.engine.port import NoKernel

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
TIMEOUT = 300
# zig compiles its C++ library too, the first time: two minutes of one core
ZIG_TIMEOUT = 900


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of CPU: the features that it must have, by Linux's names, and the compiler's flags for it."""

    name: str
    needs: frozenset[str]
    flags: tuple[str, ...] = ()


AVX2 = Variant("avx2", frozenset({"avx2", "fma", "f16c"}), ("-mavx2", "-mfma", "-mf16c"))
AVX512 = Variant(
    "avx512-vnni",
    AVX2.needs | {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
    (*AVX2.flags, "-DKERNEL_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
)
AVX512_BF16 = Variant("avx512-bf16", AVX512.needs | {"avx512_bf16"}, (*AVX512.flags, "-DKERNEL_BF16", "-mavx512bf16"))
AMX = Variant(
    "amx-int8",
    AVX512_BF16.needs | {"amx_tile", "amx_int8"},
    (*AVX512_BF16.flags, "-DKERNEL_AMX", "-mamx-tile", "-mamx-int8"),
)
NEON = Variant("neon-dotprod", frozenset({"asimddp"}), ("-DKERNEL_NEON", "-march=armv8.2-a+dotprod"))
NEON_I8MM = Variant(
    "neon-i8mm", NEON.needs | {"i8mm"}, ("-DKERNEL_NEON", "-DKERNEL_I8MM", "-march=armv8.2-a+dotprod+i8mm")
)
X86 = (AMX, AVX512_BF16, AVX512, AVX2)
ARM = (NEON_I8MM, NEON)
# the best first
VARIANTS = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM, "ARM64": ARM}.get(platform.machine(), ())
# numpy's names of what Linux calls otherwise
RENAMED = {"fma3": "fma", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}
SYSCTL = {"asimddp": "hw.optional.arm.FEAT_DotProd", "i8mm": "hw.optional.arm.FEAT_I8MM"}


def cpu_flags() -> frozenset[str]:
    """The CPU's features by Linux's names; elsewhere those that the system, or numpy, knows of."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return _apple_flags() if sys.platform == "darwin" and platform.machine() == "arm64" else _numpy_flags()
    kind = ("flags", "Features")
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith(kind)), "").split())


def _apple_flags() -> frozenset[str]:
    def has(name: str) -> bool:
        probe = subprocess.run(  # noqa: S603 - our own arguments
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False, timeout=10
        )
        return probe.stdout.strip() == "1"

    return frozenset(flag for flag, name in SYSCTL.items() if has(name))


def _numpy_flags() -> frozenset[str]:
    # numpy chooses its own kernels by these; it has no public name for them
    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    return frozenset(RENAMED.get(name.lower(), name.lower()) for name, found in features.items() if found)


def usable_variants(flags: frozenset[str], variants: Sequence[Variant] = VARIANTS) -> list[Variant]:
    """The best first. Raises NoKernel where the CPU runs none of them."""
    if not variants:
        raise NoKernel(f"there are kernels for x86-64 and ARM, this is {platform.machine()}")
    usable = [variant for variant in variants if variant.needs <= flags]
    if not usable:
        raise NoKernel(f"the CPU lacks {', '.join(sorted(variants[-1].needs - flags))}")
    return usable


def source_files() -> list[Path]:
    return sorted(file for file in SOURCES.iterdir() if file.suffix in (".h", ".cpp"))


def library_path(variant: Variant, cache_dir: Path) -> Path:
    digest = hashlib.sha256("\0".join([*FLAGS, *variant.flags]).encode())
    for source in source_files():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return cache_dir / "kernels" / f"{variant.name}-{digest.hexdigest()[:20]}.so"


def compiler() -> list[str]:
    """The command; clang of the package ziglang where the system has none. Raises NoKernel where there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise NoKernel("there is no C++ compiler (g++, clang++, or pip install ziglang)")


def for_zig(flags: Sequence[str]) -> list[str]:
    """What zig takes instead of a compiler's ``flags``.

    Without a CPU it compiles for this one, which others need not have; it knows ARM's architectures by CPUs only.
    x86's features go to clang itself, so that one C++ library, which zig compiles first, serves all variants.
    """
    found = [flag.replace("-march=armv8.2-a+", "-mcpu=generic+") for flag in flags]
    if any(flag.startswith("-mcpu=") for flag in found):
        return found
    features = [flag.removeprefix("-m") for flag in found if flag.startswith("-m")]
    others = [flag for flag in found if not flag.startswith("-m")]
    clang = [part for name in features for part in ("-Xclang", "-target-feature", "-Xclang", f"+{name}")]
    return ["-mcpu=baseline", *others, *clang]


def build(variant: Variant, cache_dir: Path) -> Path:
    """The library's path; compiles where it is not there yet. Raises NoKernel."""
    target = library_path(variant, cache_dir)
    if target.is_file():
        return target
    chosen = compiler()
    with_zig = "ziglang" in chosen
    flags = for_zig(variant.flags) if with_zig else variant.flags
    command = [*chosen, *FLAGS, *flags, str(SOURCES / "step.cpp")]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
            made = Path(folder) / "kernel.so"
            done = subprocess.run(  # noqa: S603 - our own source, our own flags
                [*command, "-o", str(made)],
                capture_output=True,
                text=True,
                timeout=ZIG_TIMEOUT if with_zig else TIMEOUT,
                check=False,
            )
            if done.returncode:
                first = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
                raise NoKernel(f"the kernels do not compile: {first}")
            made.replace(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernel(f"the kernels cannot be built in {target.parent}: {error}") from error
    return target


def main(arguments: list[str]) -> int:
    """Builds every variant that the compiler knows: a container may run on another CPU than the one that built it."""
    from apps.core.settings import load_settings

    cache_dir = Path(arguments[0]) if arguments else load_settings().model_cache_dir
    for variant in VARIANTS:
        try:
            print(f"{variant.name}: {build(variant, cache_dir)}")
        except NoKernel as error:
            print(f"{variant.name}: not built, torch's own kernels serve instead: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
