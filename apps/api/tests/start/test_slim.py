"""Images hold what a service uses: tests, headers and unused bytecode go, everything that is imported stays."""

import shutil
import subprocess
import sys
from pathlib import Path

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
