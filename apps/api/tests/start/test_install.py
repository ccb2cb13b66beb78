"""The installer asks whether torch's index answers, over real sockets, and brings no gigabytes of CUDA in silence."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

INSTALLER = Path(__file__).parents[4] / "infra/install.py"


class Index(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def index() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu/torch/"
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def exit_code_of_probe(url: str) -> int:
    """In at most ten seconds; more is a failure."""
    command = [sys.executable, str(INSTALLER), "--probe", url]
    return subprocess.run(command, timeout=90, check=False).returncode


def test_an_index_that_has_torch_is_reachable(index: str) -> None:
    assert exit_code_of_probe(index) == 0


def test_an_index_without_torch_is_not(index: str) -> None:
    assert exit_code_of_probe(index.replace("torch", "tarch")) == 1


@pytest.mark.long
def test_a_silent_index_is_given_up_within_seconds(silent: str) -> None:
    assert exit_code_of_probe(silent) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "not a url"])
def test_what_cannot_be_reached_is_no_index(url: str) -> None:
    assert exit_code_of_probe(url) == 1


def test_the_installer_needs_the_standard_library_alone() -> None:
    command = [sys.executable, "-E", "-s", "-S", str(INSTALLER), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--without-local" in done.stdout


NO_INDEX = "http://127.0.0.1:1/"
INSTALLING = """
import sys
sys.path.insert(0, sys.argv[1])
import install, packages
with packages.installer() as found:
    install.install_torch(found, *sys.argv[2:])
"""


def wheel(folder: Path, *needs: str) -> None:
    """A package that pip takes for torch 9.9."""
    about = "Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n" + "".join(f"Requires-Dist: {need}\n" for need in needs)
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "torch-9.9-py3-none-any.whl", "w") as made:
        made.writestr("torch-9.9.dist-info/METADATA", about)
        made.writestr("torch-9.9.dist-info/WHEEL", kind)
        made.writestr("torch-9.9.dist-info/RECORD", "")


def installing(folder: Path) -> str:
    """What the installer says, with pip's own lines, where only ``folder`` has packages and nothing is installed."""
    # uv does not know the latter two, so that pip it is
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_DRY_RUN": "1", "PIP_IGNORE_INSTALLED": "1"}
    command = [sys.executable, "-c", INSTALLING, str(INSTALLER.parent), "torch==9.9", NO_INDEX]
    environment = {**os.environ, **settings, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's torch is the CPU build")
@pytest.mark.long
def test_a_build_for_cuda_is_announced_with_its_size_before_it_is_fetched(tmp_path: Path) -> None:
    wheel(tmp_path, "nvidia-cublas-cu12", "triton (==3.4) ; platform_system == 'Linux'", "numpy ; extra == 'opt'")
    said = installing(tmp_path)
    assert "cannot be reached: taking the torch==9.9 that pip would find" in said
    assert "nvidia-cublas-cu12, triton and 2 such packages in all it takes about 5.7 GB of disk" in said
    assert "Ctrl-C" in said and "TORCH_INDEX_URL" in said
    # pip looks for the packages only then
    assert said.index("5.7 GB") < said.index("No matching distribution found for nvidia-cublas-cu12")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's torch is the CPU build")
def test_a_cpu_build_is_taken_without_a_word_of_cuda(tmp_path: Path) -> None:
    wheel(tmp_path)
    said = installing(tmp_path)
    assert "Would install torch-9.9" in said
    assert "CUDA" not in said


FAILING = """
import argparse, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import install

class NoTorch:
    def install(self, *arguments, index=""):
        return 3 if "torch==0" in arguments else 0

install.ROOT = Path(sys.argv[2])
install.install(NoTorch(), argparse.Namespace(without_local=False, kernels=False, torch_index="", portable=False))
"""


def test_what_the_kernels_print_is_shown_where_torch_fails(tmp_path: Path) -> None:
    (tmp_path / "requirements-local.txt").write_text("torch==0\n")
    command = [sys.executable, "-c", FAILING, str(INSTALLER.parent), str(tmp_path)]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "CXX": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 3, done.stderr
    assert "setup: there is no apps.local.prepare to run" in done.stdout


def test_the_command_works_from_any_folder_and_a_path_with_blanks(tmp_path: Path) -> None:
    venv = tmp_path / "a venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(venv)], check=True)
    python = venv / "bin" / "python"
    subprocess.run([str(python), str(INSTALLER), "--command-only"], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    # the packages of the Python that runs this
    (packages / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    done = subprocess.run(
        [str(venv / "bin/genai"), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("genai "), done.stderr
