"""Installs what the API needs into the Python that runs this file: one owner for make, build.ps1 and the Dockerfile.

    python infra/install.py [--without-local | --kernels] [--torch-index URL] [--portable]
    python infra/install.py --dev

The standard library is all it may import: it runs before anything is installed.
"""

import argparse
import compileall
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from packages import Installer, installer, say  # type: ignore[import-not-found]  # this script's folder
from slim import IMPORTING  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
PROBE_SECONDS = 4
NAME = re.compile(r"[\w.-]+")
CUDA = ("cuda-", "nvidia-", "triton")
CUDA_GB = 5.7
KERNELS = "apps.local.engine.kernel.build"
COMPILERS = ("g++", "clang++")
PREPARED = "apps.local.prepare"
FAILED = {
    KERNELS: "setup: the kernels could not be built: the local model will run on torch's own, slower\n",
    PREPARED: "setup: the packaged model could not be converted: the first start tries again and says why\n",
}
# sh reads it first: a path with a blank, or a long one, is none that a first line may name
COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys

sys.path.insert(0, {root!r})
from apps.cli.main import main

sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-local", action="store_true", help="requirements.txt only: no torch, no local model")
    parser.add_argument("--kernels", action="store_true", help="the local model on the engine's own kernels: no torch")
    parser.add_argument("--torch-index", default="", help="index of torch's CPU builds, tried first on Linux")
    parser.add_argument("--portable", action="store_true", help="kernels for other CPUs than this one, too: for images")
    parser.add_argument("--dev", action="store_true", help="the tools of development, on top of what is installed")
    parser.add_argument("--command-only", action="store_true", help="write the command genai, and install nothing")
    parser.add_argument("--probe", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        return probe(given.probe)
    if sys.version_info < OLDEST:
        sys.exit(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")
    if given.command_only:
        return write_command()
    with installer() as packages:
        if given.dev:
            return install_lock(packages, "requirements-dev.lock")
        install(packages, given)
    write_command()
    return None


def install(packages: Installer, given: argparse.Namespace) -> None:
    """The packages; kernels, packed model and bytecode are made beside what still installs, on the other core."""
    install_lock(packages, "requirements.lock")
    if given.without_local:
        return compile_used()
    install_lock(packages, f"requirements-{'kernels' if given.kernels else 'local'}.lock")
    with ThreadPoolExecutor(max_workers=1) as beside:
        prepared = beside.submit(prepare_local_model, given.portable)
        try:
            if not given.kernels:
                lines = (ROOT / "requirements-local.txt").read_text(encoding="utf-8").splitlines()
                install_torch(packages, next(line for line in lines if line.startswith("torch==")), given.torch_index)
            compile_used()
        finally:
            print(prepared.result(), end="", flush=True)
    return None


def install_lock(packages: Installer, name: str) -> None:
    """Exactly what a lock lists, each file checked against its hashes; nothing is resolved and nothing added."""
    end_on_failure(packages.install("--no-deps", "--require-hashes", "-r", str(ROOT / name)))


def install_torch(packages: Installer, requirement: str, index: str) -> None:
    """Torch's CPU build from its own index on Linux; elsewhere, and where that fails, the torch that pip would find.

    The same version has other hashes in either index, so that no lock holds torch.
    """
    if sys.platform != "linux":
        return end_on_failure(packages.install("--no-deps", requirement))
    if index and reachable(index):
        if packages.install("--no-deps", requirement, index=index) == 0:
            return None
        say(f"{index} has no {requirement} for this machine: taking what pip would find")
    elif index:
        say(f"{index} cannot be reached: taking the {requirement} that pip would find")
    # a build for CUDA needs its packages, which are in no lock either
    if found := cuda_packages(requirement):
        say(
            f"that {requirement} is the build for CUDA: with {', '.join(found[:3])} and {len(found)} such "
            f"packages in all it takes about {CUDA_GB} GB of disk. To avoid it stop here (Ctrl-C), and set "
            "TORCH_INDEX_URL to an index of CPU builds that can be reached from here"
        )
        return end_on_failure(packages.install(requirement))
    return end_on_failure(packages.install("--no-deps", requirement))


def cuda_packages(requirement: str) -> list[str]:
    """The packages for CUDA that the torch which pip finds would bring along here; none where it is a CPU build."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        # pip reads the package's metadata for it, and not the package, where the index offers that
        done = subprocess.run([*command, "--report", str(report), requirement], check=False)  # noqa: S603
        if done.returncode:
            return []  # what is wrong is said by the installation that follows
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    needs = [need for package in found for need in package["metadata"].get("requires_dist", ())]
    return sorted({NAME.findall(need)[0] for need in needs if need.startswith(CUDA) and "extra ==" not in need})


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


def prepare_local_model(portable: bool) -> str:
    """Compile the local model's kernels, then convert and pack the packaged model; what the two print.

    Without kernels torch's own serve; the API says so at its start, too. The first start takes the packed model as it
    is, and a failure is left to that start. ``portable`` builds the kernels of all CPUs, else this one's are built.
    """
    printed = ""
    with compiler_at_hand() as environment:
        for module in (KERNELS, PREPARED) if portable else (PREPARED,):
            if not ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file():
                printed += f"setup: there is no {module} to run\n"
                continue
            done = subprocess.run(  # noqa: S603 - our own arguments
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            printed += done.stdout
            if done.returncode:
                printed += FAILED[module]
    return printed


@contextmanager
def compiler_at_hand() -> Iterator[dict[str, str]]:
    """The environment that the kernels are built in. Where there is no compiler one is lent, as long as they are.

    clang comes as the package ziglang: 413 MB that nothing else needs, so that no installation keeps them.
    """
    environment = dict(os.environ)
    named = [name for name in (os.environ.get("CXX"), *COMPILERS) if name]
    if any(map(shutil.which, named)) or importlib.util.find_spec("ziglang") is not None:
        yield environment
        return
    say("there is no C++ compiler: fetching one (100 MB), which builds the kernels in some minutes and then goes again")
    folders = ROOT / ".cache"
    folders.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compiler-", dir=folders) as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, "--no-deps", "--require-hashes"]
        lock = str(ROOT / "requirements-compiler.lock")
        if subprocess.run([*command, "-r", lock], check=False).returncode:  # noqa: S603 - our own arguments
            say("no compiler could be fetched")
        else:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
            environment["ZIG_GLOBAL_CACHE_DIR"] = environment["ZIG_LOCAL_CACHE_DIR"] = str(Path(folder, "zig-cache"))
        yield environment


def compile_used() -> None:
    """Write the bytecode of what a service imports, a quarter of what is installed; the rest is compiled when imported.

    The first start takes it as it is, and so does one with PYTHONDONTWRITEBYTECODE.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORTING]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)  # noqa: S603
    if done.returncode:
        say("not all that the service imports could be compiled (see above): the first start does it")
    compileall.compile_dir(ROOT / "apps", quiet=1, rx=re.compile(r"[/\\]tests[/\\]"))


def write_command() -> None:
    """Write the command `genai` beside this Python: the checkout's own modules, whatever folder it is called in."""
    if sys.prefix == sys.base_prefix:
        say("no virtual environment: `genai` is `python -m apps.cli.main` here")
        return None
    scripts = Path(sys.executable).parent
    if sys.platform == "win32":
        lines = ("@setlocal", f"@set PYTHONPATH={ROOT};%PYTHONPATH%", '@"%~dp0python.exe" -m apps.cli.main %*')
        (scripts / "genai.cmd").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return None
    command = scripts / "genai"
    command.write_text(COMMAND.format(python=sys.executable, root=str(ROOT)), encoding="utf-8")
    command.chmod(0o755)
    return None


def end_on_failure(code: int) -> None:
    """End with the installer's own exit code where that is not 0."""
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
