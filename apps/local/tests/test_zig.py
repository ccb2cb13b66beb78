"""A machine without a compiler: clang of the package ziglang builds the kernels, which serve as any others do."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.settings import Settings
from apps.local.engine.kernel.build import AMX, AVX2, FLAGS, NEON_I8MM, SOURCES, cpu_flags, for_zig
from apps.tests.support.processes import ROOT, running
from apps.tests.support.waiting import until
from apps.tests.support.worldly import worldly_environment

pytestmark = pytest.mark.local
LOCK = ROOT / "requirements-compiler.lock"


@pytest.fixture(scope="module")
def zig() -> dict[str, str]:
    """A PATH with no compiler, and ziglang where Python finds it. Fetched once, as the C++ library is compiled once."""
    folder = Settings().model_cache_dir.resolve() / "compiler"
    if not (folder / "ziglang").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "--no-deps", "-r", str(LOCK)]
        done = subprocess.run(
            command, env=worldly_environment(), capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            pytest.skip(f"ziglang cannot be fetched: {done.stderr[-200:]}")
    caches = {f"ZIG_{kind}_CACHE_DIR": str(folder / "zig-cache") for kind in ("GLOBAL", "LOCAL")}
    return {"PATH": "/nowhere", "HOME": str(folder), "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **caches}


def run(arguments: list[str], environment: Mapping[str, str], seconds: float = 600) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    return done.stdout + done.stderr


def test_zig_is_told_the_cpu_and_clang_the_features() -> None:
    assert for_zig(NEON_I8MM.flags) == ["-DKERNEL_NEON", "-DKERNEL_I8MM", "-mcpu=generic+dotprod+i8mm"]
    assert for_zig(AVX2.flags)[:5] == ["-mcpu=baseline", "-Xclang", "-target-feature", "-Xclang", "+avx2"]
    assert not [flag for flag in for_zig(AMX.flags) if flag.startswith("-m") and flag != "-mcpu=baseline"]
    assert "+amx-int8" in for_zig(AMX.flags) and "-DKERNEL_AMX" in for_zig(AMX.flags)


@pytest.mark.skipif(not AVX2.needs <= cpu_flags(), reason="this CPU has no kernels for x86")
@pytest.mark.timeout(900)
@pytest.mark.long
def test_without_a_compiler_zig_s_kernels_serve_and_are_said_to(
    zig: dict[str, str], packaged: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / packaged.name).symlink_to(packaged)
    settings = {**zig, "MODEL_CACHE_DIR": str(cache), "LOCAL_FALLBACK": "packaged", "LOCAL_MODEL": str(packaged)}
    built = run(["-m", "apps.local.engine.kernel.build", str(cache)], settings)
    assert built.count(".so") == 4, built
    told = run(["-m", "apps.cli.main", "doctor"], {**settings, "DATA_DIR": str(tmp_path)})
    (kernels,) = [line for line in told.splitlines() if line.startswith("kernels")]
    assert "built: the project's own kernels serve" in kernels
    with running(tmp_path, **settings) as service, httpx2.Client(base_url=service.url, timeout=120) as http:
        assert until(lambda: local(http)["status"] == "ready"), local(http)
        answer = http.post("/local/generate", json={"prompt": "What is Python?", "max_tokens": 8, "temperature": 0})
        assert answer.status_code == 200 and answer.json()["response"]
        details = local(http)["details"]
    assert details["kernels"].startswith("own, ") and details["kernels_missing"] is None
    assert "compiled by Clang" in details["kernels_reason"]


@pytest.mark.long
def test_clang_takes_the_kernels_for_arm_on_macos(zig: dict[str, str], tmp_path: Path) -> None:
    command = ["-m", "ziglang", "c++", "-target", "aarch64-macos", *FLAGS, *for_zig(NEON_I8MM.flags)]
    made = tmp_path / "made.o"
    said = run([*command, "-c", str(SOURCES / "step.cpp"), "-o", str(made)], zig)
    assert made.is_file(), said


@pytest.mark.long
def test_a_compiler_is_lent_to_set_up_and_goes_again(tmp_path: Path) -> None:
    """Where none can be fetched either, that is said, and set-up goes on."""
    program = (
        "import sys, subprocess; sys.path.insert(0, 'infra'); import install\n"
        "with install.compiler_at_hand() as environment:\n"
        "    print('zig cache' if 'ZIG_GLOBAL_CACHE_DIR' in environment else 'none')\n"
    )
    environment = {"PATH": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    said = run(["-c", program], environment)
    assert "fetching one (100 MB)" in said and "no compiler could be fetched" in said and "none\n" in said
    assert not list((ROOT / ".cache").glob("compiler-*"))


def local(http: httpx2.Client) -> dict[str, Any]:
    models: list[dict[str, Any]] = http.get("/ready").json()["models"]
    return next(model for model in models if model["route"] == "/local/generate")
