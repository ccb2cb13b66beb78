"""From a fresh clone to the first local answer: `python -m eval.first_answer [--keep FOLDER]`.

Clones this repository into an empty folder with an empty HOME, runs `make setup` and then `make run`, each timed: the
second until `/local/generate` has answered. No hub is asked, and no cache of pip's is there; packages come from where
pip is configured to take them. reports/first_answer.json has the figures.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from apps.tests.support.ports import free_port
from apps.tests.support.processes import ROOT

REPORT = Path("reports/first_answer.json")
SETUP_MOST, ANSWER_MOST = 150.0, 5.0
PATIENCE = 300.0
POLL = 0.05
# how pip finds packages is the machine's business; all else of the environment stays out
KEPT = ("PATH", "LANG", "SSL_CERT_FILE", "TORCH_INDEX_URL")
KEPT_PREFIX = "PIP_"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in, which is left as it is")
    given = parser.parse_args()
    if given.keep is not None:
        return measure(given.keep)
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))


def measure(folder: Path) -> int:
    home, clone = folder / "home", folder / "genai-project"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)  # noqa: S603, S607
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIX)}
    environment = kept | {"HOME": str(home)}
    environment |= {"API_HOST": "127.0.0.1", "API_PORT": str(free_port()), "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    python = getattr(sys, "_base_executable", sys.executable)
    subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=clone, env=environment, check=True)  # noqa: S603, S607
    found: dict[str, Any] = {"setup_seconds": round(time.monotonic() - begun, 1)}
    found |= first_answer(clone, environment)
    found |= {"cpus": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    found["kept"] = found["setup_seconds"] <= SETUP_MOST and found["answer_seconds"] <= ANSWER_MOST
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    return 0 if found["kept"] else 1


def first_answer(clone: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds from `make run` to an answer, and which model gave it. Raises TimeoutError."""
    url = f"http://127.0.0.1:{environment['API_PORT']}/local/generate"
    begun = time.monotonic()
    service = subprocess.Popen(["make", "run"], cwd=clone, env=environment, start_new_session=True)  # noqa: S607
    try:
        while time.monotonic() - begun < PATIENCE:
            time.sleep(POLL)
            try:
                answer = httpx2.post(
                    url, json={"prompt": "What is Python?", "max_tokens": 1}, timeout=60, trust_env=False
                )
            except httpx2.TransportError:
                continue
            if answer.status_code == 200:
                seconds = round(time.monotonic() - begun, 2)
                return {
                    "answer_seconds": seconds,
                    "model": answer.headers["X-Model"],
                    "answer": answer.json()["response"],
                }
        raise TimeoutError(f"no answer within {PATIENCE:g} s")
    finally:
        os.killpg(service.pid, signal.SIGTERM)
        service.wait()


if __name__ == "__main__":
    sys.exit(main())
