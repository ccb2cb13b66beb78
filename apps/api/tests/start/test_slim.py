"""Images hold what a service uses: tests, headers and unused bytecode go, everything that is imported stays."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
INSTALLED = (
    "pyarrow/libarrow_python.so",
    "pyarrow/libarrow_python.so.2600",
    "pyarrow/libarrow_python.so.2600.1.0",
    "pyarrow/_flight.so",
    "pyarrow/libarrow_python_flight.so",
    "torch/bin/program",
    "torch/bin/torch_shm_manager",
    "torch/include/a.h",
    "torch/nn/module.py",
    "numpy/core/tests/test_a.py",
    "numpy/testing/a.py",
)
KEPT = {"pyarrow/libarrow_python.so.2600", "torch/bin/torch_shm_manager", "torch/nn/module.py", "numpy/testing/a.py"}
LISTING = "import sys; sys.path.insert(0, sys.argv[1]); import slim; from pathlib import Path\n"
LISTING += "print(*slim.unused(Path(sys.argv[2])), sep='\\n')"


def test_tests_and_programs_go_and_modules_stay(tmp_path: Path) -> None:
    for name in INSTALLED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    command = [sys.executable, "-c", LISTING, str(ROOT / "infra"), str(tmp_path)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(listed) == len(set(listed))
    for path in map(Path, listed):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == KEPT


LIBRARY = importlib.util.find_spec("httptools.parser.parser")
STRIPPING = "import sys; sys.path.insert(0, sys.argv[1]); import slim; from pathlib import Path\n"
STRIPPING += "print(slim.strip_symbols(Path(sys.argv[2])), slim.read_library(Path(sys.argv[3])).symbols)"


@pytest.mark.skipif(shutil.which("strip") is None, reason="there are no binutils")
@pytest.mark.skipif(sys.platform != "linux", reason="images are Linux's")
def test_symbols_go_and_the_library_can_be_loaded(tmp_path: Path) -> None:
    assert LIBRARY is not None and LIBRARY.origin is not None
    copy = tmp_path / "package" / Path(LIBRARY.origin).name
    copy.parent.mkdir()
    shutil.copy(LIBRARY.origin, copy)
    (tmp_path / "text.so").write_text("no library")
    before = copy.stat()
    command = [sys.executable, "-c", STRIPPING, str(ROOT / "infra"), str(tmp_path), str(copy)]
    *_, saved, left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (int(saved), int(left)) == (before.st_size - copy.stat().st_size, 0)
    assert int(saved) > 100_000 and copy.stat().st_mode == before.st_mode
    assert [file.name for file in copy.parent.iterdir()] == [copy.name]
    assert ctypes.PyDLL(str(copy)).PyInit_parser is not None


PROGRAM = """#!/bin/sh
# puts a segment where no page can be mapped: the file's place of the first one is a byte further
cp "$4" "$3"
printf '\\001' | dd of="$3" bs=1 seek=$(($(od -An -t u8 -j 32 -N 8 "$4") + FIRST * 56 + 8)) conv=notrunc 2>/dev/null
"""


@pytest.mark.skipif(sys.platform != "linux", reason="images are Linux's")
def test_a_library_that_strip_would_break_stays_as_it_is(tmp_path: Path) -> None:
    assert LIBRARY is not None and LIBRARY.origin is not None
    copy = tmp_path / "package" / Path(LIBRARY.origin).name
    copy.parent.mkdir()
    shutil.copy(LIBRARY.origin, copy)
    whole = copy.read_bytes()
    table = int.from_bytes(whole[32:40], "little")
    first = next(n for n in range(20) if int.from_bytes(whole[table + 56 * n :][:4], "little") == 1)
    breaking = tmp_path / "bin" / "strip"
    breaking.parent.mkdir()
    breaking.write_text(PROGRAM.replace("FIRST", str(first)))
    breaking.chmod(0o755)
    command = [sys.executable, "-c", STRIPPING, str(ROOT / "infra"), str(copy.parent), str(copy)]
    path = f"{breaking.parent}:/usr/bin:/bin"
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert f"slim: {copy.name} keeps its symbols" in done.stdout
    assert copy.read_bytes() == whole and [file.name for file in copy.parent.iterdir()] == [copy.name]
