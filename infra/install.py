"""Installs what the API needs into the Python that runs this file: one owner for make, build.ps1 and the Dockerfile.

    python infra/install.py [--without-local] [--torch-index URL]

The standard library is all it may import: it runs before anything is installed.
"""

import argparse
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NO_DEPS = "# no-deps:"
PROBE_SECONDS = 4
KERNELS = "apps.local.engine.kernel.build"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-local", action="store_true", help="requirements.txt only: no torch, no local model")
    parser.add_argument("--torch-index", default="", help="index of torch's CPU builds, tried first on Linux")
    parser.add_argument("--probe", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        return probe(given.probe)
    if sys.version_info < OLDEST:
        sys.exit(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")
    pip("-r", str(ROOT / "requirements.txt"))
    if not given.without_local:
        install_local(given.torch_index)
    return None


def install_local(torch_index: str) -> None:
    """Torch, the other local requirements, the packages that must come without theirs, and the compiled kernels."""
    requirements = ROOT / "requirements-local.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines()
    if torch_index and sys.platform == "linux":
        install_torch(next(line for line in lines if line.startswith("torch==")), torch_index)
    pip("-r", str(requirements))
    for line in lines:
        if line.startswith(NO_DEPS):
            pip("--no-deps", line.removeprefix(NO_DEPS).strip())
    build_kernels()


def install_torch(requirement: str, index: str) -> None:
    """Torch's CPU build from its own index; where that fails pip finds torch elsewhere, with the other requirements."""
    if not reachable(index):
        return say(f"{index} cannot be reached: taking the {requirement} that pip finds")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--index-url", index, requirement]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own arguments
        say(f"{index} has no {requirement} for this machine: taking what pip finds")
    return None


def reachable(index: str) -> bool:
    """Whether the index answers within a few seconds; in a process of its own, since DNS keeps no timeout."""
    command = [sys.executable, str(Path(__file__).resolve()), "--probe", index.rstrip("/") + "/torch/"]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - our own arguments


def probe(url: str) -> None:
    """Exit with 0 where the URL answers in time and with 1 where it does not."""
    watchdog = threading.Timer(PROBE_SECONDS, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the user's own setting
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()  # noqa: S310
    except (OSError, ValueError):
        sys.exit(1)


def build_kernels() -> None:
    """Compile the local model's kernels. Without them torch's own serve; the API says so at its start, too."""
    if not ROOT.joinpath(*KERNELS.split(".")).with_suffix(".py").is_file():
        return say("no kernels to build")
    if subprocess.run([sys.executable, "-m", KERNELS], cwd=ROOT, check=False).returncode:  # noqa: S603
        say("the kernels could not be built: the local model will run on torch's own, slower")
    return None


def pip(*arguments: str) -> None:
    """Install, or end with pip's own exit code."""
    done = subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    main()
