"""Building the kernels: `python -m apps.local.engine.kernel.build [FOLDER]`, a few seconds.

One shared library a kind of CPU, named by a hash of the sources and the flags, so that a built one is never built
again and an old one never taken. Without a compiler nothing is built and nothing fails: torch's kernels serve then.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from apps.local.engine.kernel.errors import NoKernel

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-mavx2", "-mfma", "-mf16c"]
TIMEOUT = 120


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of CPU: the flags that /proc/cpuinfo must show, and what the compiler is told."""

    name: str
    needs: frozenset[str]
    flags: tuple[str, ...] = ()


AVX2 = Variant("avx2", frozenset({"avx2", "fma", "f16c"}))
AVX512 = Variant(
    "avx512-vnni",
    AVX2.needs | {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
    ("-DKERNEL_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
)
AVX512_BF16 = Variant("avx512-bf16", AVX512.needs | {"avx512_bf16"}, (*AVX512.flags, "-DKERNEL_BF16", "-mavx512bf16"))
VARIANTS = (AVX512_BF16, AVX512, AVX2)


def cpu_flags() -> frozenset[str]:
    """Empty where /proc/cpuinfo does not say (Windows, macOS, ARM)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def best_variant(flags: frozenset[str]) -> Variant:
    """Raises NoKernel where the CPU runs none of them."""
    for variant in VARIANTS:
        if variant.needs <= flags:
            return variant
    if not flags:
        raise NoKernel(f"the kernels are for Linux on x86-64, this is {platform.system()} on {platform.machine()}")
    raise NoKernel(f"the CPU lacks {', '.join(sorted(AVX2.needs - flags))}")


def source_files() -> list[Path]:
    return sorted(file for file in SOURCES.iterdir() if file.suffix in (".h", ".cpp"))


def library_path(variant: Variant, cache_dir: Path) -> Path:
    digest = hashlib.sha256("\0".join([*FLAGS, *variant.flags]).encode())
    for source in source_files():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return cache_dir / "kernels" / f"{variant.name}-{digest.hexdigest()[:20]}.so"


def compiler() -> str:
    """Raises NoKernel where there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise NoKernel("there is no C++ compiler (g++ or clang++)")


def build(variant: Variant, cache_dir: Path) -> Path:
    """The library's path; compiles where it is not there yet. Raises NoKernel."""
    target = library_path(variant, cache_dir)
    if target.is_file():
        return target
    command = [compiler(), *FLAGS, *variant.flags, str(SOURCES / "step.cpp")]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
            made = Path(folder) / "kernel.so"
            done = subprocess.run(  # noqa: S603 - our own source, our own flags
                [*command, "-o", str(made)], capture_output=True, text=True, timeout=TIMEOUT, check=False
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
