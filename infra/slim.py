"""Takes out of this environment what no service uses: `python infra/slim.py`, for images.

Tests and C headers of packages, torch's programs; symbols of shared libraries, which debuggers alone read; and the
bytecode of modules that no part of the service imports: a Python that finds none compiles the module, which then takes
a moment longer.
"""

import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNUSED = ("torch/include", "torch/test", "torch/share/cmake", "pyarrow/include", "pyarrow/src")
# Arrow's RPC; and libraries that are there three times, where the linker asks for the one with a single number
UNUSED_FILES = ("pyarrow/*flight*", "pyarrow/libarrow_python*.so", "pyarrow/libarrow_python*.so.*.*")
# sections that no program loads
SYMBOLS = (b".symtab", b".strtab", b".debug")
# ELF of 64 bits, little endian; its tables' places in the header; a loaded segment
ELF = b"\x7fELF\x02\x01"
HEADER, SECTION, SEGMENT = "<16x2x2x4x8xQQ4x2xHHHHH", "<IIQQQQ", "<II6Q"
LOADED = 1
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


@dataclass(frozen=True, slots=True)
class Library:
    """What the headers of a shared library say: the bytes of its symbols, and where its segments are loaded.

    A segment is its address, its length in the file, and whether the file has it where a page can be mapped.
    """

    symbols: int
    segments: tuple[tuple[int, int, bool], ...]


def read_library(path: Path) -> Library | None:
    """None for a file of another kind."""
    with path.open("rb") as file:
        begin = file.read(64)
        if len(begin) < 64 or not begin.startswith(ELF):
            return None
        segments_at, sections_at, segment_size, segments, section_size, sections, names_at = struct.unpack(
            HEADER, begin
        )
        file.seek(segments_at)
        table = file.read(segment_size * segments)
        loaded = []
        for number in range(segments):
            kind, _, offset, address, _, length, _, align = struct.unpack_from(SEGMENT, table, number * segment_size)
            if kind == LOADED:
                loaded.append((address, length, offset % max(align, 1) == address % max(align, 1)))
        file.seek(sections_at)
        table = file.read(section_size * sections)
        found = [struct.unpack_from(SECTION, table, number * section_size) for number in range(sections)]
        if not found:
            return None
        file.seek(found[names_at][4])
        names = file.read(found[names_at][5])
    symbols = sum(section[5] for section in found if names[section[0] :].startswith(SYMBOLS))
    return Library(symbols, tuple(loaded))


def libraries(packages: Path) -> Iterator[tuple[Path, Library]]:
    for path in sorted(packages.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and (library := read_library(path)) is not None:
            yield path, library


def write_stripped(path: Path, library: Library, target: Path) -> bool:
    """Write a library without its symbols; whether it can be loaded as before. Raises FileNotFoundError."""
    command = ["strip", "--strip-unneeded", "-o", str(target), str(path)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - files of our own packages
    after = read_library(target) if done.returncode == 0 else None
    return after is not None and after.segments == library.segments and all(fits for *_, fits in after.segments)


def strip_symbols(packages: Path) -> int:
    """Take symbols out of shared libraries; the bytes that this saves. Raises FileNotFoundError without binutils.

    Of a library that a tool has put together anew, as wheels have them, strip may write segments that cannot be
    mapped: such a library stays as it is.
    """
    saved = 0
    for path, library in list(libraries(packages)):
        if not library.symbols:
            continue
        stripped = path.with_name(f".{path.name}.stripped")
        if write_stripped(path, library, stripped):
            saved += path.stat().st_size - stripped.stat().st_size
            stripped.chmod(path.stat().st_mode)
            stripped.replace(path)
        else:
            print(f"slim: {path.name} keeps its symbols")
            stripped.unlink(missing_ok=True)
    return saved


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
    print(f"slim: {strip_symbols(packages) / 1_000_000:.0f} MB of symbols")
    used = used_bytecode()
    for file in packages.rglob("*.pyc"):
        if str(file) not in used:
            file.unlink()


if __name__ == "__main__":
    main()
