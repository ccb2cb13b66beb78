"""Writes the lock files: every package that the requirements lead to, with its version and its hashes.

    python infra/lock.py [--upgrade]

One lock serves Python 3.11 to 3.14 on Linux, macOS and Windows, since a line that is not for all of them says so in
its marker. Torch is left out with its CUDA packages: its CPU build comes from an index of its own, whose hashes are
others than those of the same version elsewhere (infra/install.py). Without ``--upgrade`` the versions that stand in a
lock are kept where the requirements allow it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_DEPS = "# no-deps:"
PYTHON = "3.11"
# of torch's dependencies on Linux
CUDA = ("cuda-", "nvidia-", "triton==")
LOCKS = {
    "requirements.lock": ("requirements.txt",),
    "requirements-local.lock": ("requirements-local.txt", "requirements.lock"),
    "requirements-kernels.lock": ("requirements-kernels.txt", "requirements.lock", "requirements-local.lock"),
    "requirements-compiler.lock": ("requirements-compiler.txt",),
    "requirements-installer.lock": ("requirements-installer.txt",),
    "requirements-dev.lock": ("requirements-dev.txt", "requirements.lock", "requirements-local.lock"),
}
HEADER = "# Written by make lock from {source}; installed by make setup with --no-deps --require-hashes.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the requirements allow")
    given = parser.parse_args()
    for name, (source, *others) in LOCKS.items():
        write(ROOT / name, ROOT / source, [ROOT / other for other in others], given.upgrade)


def write(lock: Path, source: Path, others: list[Path], upgrade: bool) -> None:
    """Resolve ``source`` beside what the ``others`` hold, and the packages that it takes without their dependencies."""
    kept = {str(other): other.read_text(encoding="utf-8") for other in others}
    if lock.exists() and not upgrade:
        kept[str(lock)] = lock.read_text(encoding="utf-8")
    pins = "\n".join(line.rstrip("\\ ") for text in kept.values() for line in text.splitlines() if is_pin(line))
    lines = resolve(source.read_text(encoding="utf-8"), pins)
    bare = [line.removeprefix(NO_DEPS) for line in source.read_text(encoding="utf-8").splitlines() if NO_DEPS in line]
    if bare:
        lines += resolve("\n".join(bare), "", "--no-deps")
    lock.write_text(HEADER.format(source=source.name) + "\n".join(lines) + "\n", encoding="utf-8")


def is_pin(line: str) -> bool:
    return line[:1].isalnum()


def resolve(requirements: str, pins: str, *options: str) -> list[str]:
    """The lines of a lock, or the end with uv's own exit code."""
    work = ROOT / ".lock-constraints.tmp"
    work.write_text(pins, encoding="utf-8")
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--constraint", str(work), "--universal", "-q"]
    command += ["--python-version", PYTHON, "--generate-hashes", "--no-header", "--no-annotate", *options]
    command += ["--no-emit-package", "torch"]
    try:
        done = subprocess.run(command, input=requirements, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    finally:
        work.unlink()
    if done.returncode:
        sys.exit(done.returncode)
    return without_cuda(done.stdout.splitlines())


def without_cuda(lines: list[str]) -> list[str]:
    kept, dropping = [], False
    for line in lines:
        if is_pin(line):
            dropping = line.startswith(CUDA)
        if not dropping:
            kept.append(line)
    return kept


if __name__ == "__main__":
    main()
