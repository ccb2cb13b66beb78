"""Takes out of this environment what no service uses: `python infra/slim.py`, for images.

Tests and C headers of packages, torch's programs; and the bytecode of modules that no part of the service imports: a
Python that finds none compiles the module, which then takes a moment longer.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNUSED = ("torch/include", "torch/test", "torch/share/cmake", "pyarrow/include", "pyarrow/src")
# Arrow's RPC; and libraries that are there three times, where the linker asks for the one with a single number
UNUSED_FILES = ("pyarrow/*flight*", "pyarrow/libarrow_python*.so", "pyarrow/libarrow_python*.so.*.*")
TESTED = ("sympy", "numpy", "networkx", "pyarrow", "mpmath", "regex", "lance_namespace")
# every module of the service, with whatever it imports that is installed
IMPORTING = """
import importlib, pkgutil, sys
import apps
for module in pkgutil.walk_packages(apps.__path__, "apps."):
    if ".tests" not in module.name and not module.name.endswith("__main__") and ".migrations" not in module.name:
        try:
            importlib.import_module(module.name)
        except ImportError:
            pass
for name in ("lancedb", "kreuzberg", "uvloop", "httptools", "aiosqlite", "asyncpg", "mcp.server.mcpserver"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
print("\\n".join(spec.cached for spec in specs if spec is not None and spec.cached))
"""


def unused(packages: Path) -> Iterator[Path]:
    """Folders and files of installed packages that no service reads."""
    # torch asks for this one when it is imported
    yield from (file for file in (packages / "torch/bin").glob("*") if file.name != "torch_shm_manager")
    yield from (folder for name in UNUSED if (folder := packages / name).is_dir())
    # a file may fit two patterns
    yield from {file for pattern in UNUSED_FILES for file in packages.glob(pattern) if file.is_file()}
    for name in TESTED:
        yield from (folder for folder in (packages / name).rglob("tests") if folder.is_dir())


def used_bytecode() -> frozenset[str]:
    """Files of bytecode that the service imports; the imports write those that are missing."""
    done = subprocess.run([sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return frozenset(done.stdout.split("\n"))


def main() -> None:
    packages = Path(sysconfig.get_path("platlib"))
    for path in list(unused(packages)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    used = used_bytecode()
    for file in packages.rglob("*.pyc"):
        if str(file) not in used:
            file.unlink()


if __name__ == "__main__":
    main()
