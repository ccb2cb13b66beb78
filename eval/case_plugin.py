"""The pytest plugin of `make smoke`: each YAML file is a module of cases, each case a test with a report.

Loaded by eval/smoke.py alone, so that a plain `pytest` does not run the cases.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from eval import case_call, case_judge, case_server
from eval.case_schema import Case, CaseFile, CaseFileError, Need, load
from eval.mock_upstream import MockUpstream, mock_upstream

SHOWN_CHARACTERS = 4000
LOGS = Path("reports/smoke-logs")


class CaseFailed(Exception):
    """What was wrong with the answer, a line each."""


class Target:
    """Where cases are sent: BASE_URL, or servers of our own, one at a time, each with its file's settings."""

    def __init__(self, base_url: str | None, root: Path) -> None:
        self._base_url = base_url
        self._logs = root / LOGS
        self._running = ExitStack()
        self._upstream = ExitStack()
        self._name = ""
        self._url = ""
        self.mock: MockUpstream | None = None

    def url_for(self, name: str, file: CaseFile) -> str:
        """The base URL of the server that a file's cases want; skips the test where BASE_URL cannot be that."""
        if self._base_url:
            if file.server:
                pytest.skip("needs a server with settings of its own; BASE_URL has others")
            return self._base_url
        if self._name != name:
            self._running.close()
            if self.mock is None:
                self.mock = self._upstream.enter_context(mock_upstream())
            self._logs.mkdir(parents=True, exist_ok=True)
            log = self._logs / f"{name}.log"
            self._url = self._running.enter_context(case_server.server(file.server, self.mock.base_url, log))
            self._name = name
        return self._url

    def require(self, need: Need, url: str) -> None:
        """Skip the test where what it needs cannot be had here, with the reason."""
        if need == "mock" and self.mock is None:
            pytest.skip("needs the mock upstream behind the server; BASE_URL has another")
        if need == "local":
            state, reason = case_server.local_state(url)
            if state == "not_configured":
                pytest.skip(f"the local model is not installed: {reason}")

    def close(self) -> None:
        try:
            self._running.close()
        finally:
            self._upstream.close()


TARGET = pytest.StashKey[Target]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TARGET] = Target(os.environ.get("BASE_URL", "").rstrip("/") or None, config.rootpath)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[TARGET].close()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix in (".yaml", ".yml"):
        return YamlFile.from_parent(parent, path=file_path)
    return None


class YamlFile(pytest.File):
    def collect(self) -> Iterator["CaseItem"]:
        try:
            file = load(self.path)
        except CaseFileError as error:
            raise self.CollectError(str(error)) from None
        for case in file.cases:
            yield CaseItem.from_parent(self, name=case.name, case=case, file=file)


class CaseItem(pytest.Item):
    def __init__(self, *, case: Case, file: CaseFile, **rest: Any) -> None:
        super().__init__(**rest)
        self.case = case
        self.file = file

    def runtest(self) -> None:
        target = self.config.stash[TARGET]
        url = target.url_for(self.path.stem, self.file)
        for need in (*self.file.needs, *self.case.needs):
            target.require(need, url)
        if target.mock:
            target.mock.reset()
        exchange = case_call.run(self.case, url)
        calls = target.mock.stats()["requests"] if target.mock else None
        self.add_report_section("call", "case", self._shown(exchange))
        if found := case_judge.problems(self.case.expect, exchange, calls):
            raise CaseFailed("\n".join(found))

    def _shown(self, exchange: case_call.Exchange) -> str:
        request = self.case.request.model_dump(by_alias=True, exclude_defaults=True)
        headers = "\n".join(f"{name}: {value}" for name, value in exchange.headers.items())
        lines = [json.dumps(request, ensure_ascii=False), "", f"{exchange.status} in {exchange.seconds:.3f} s", headers]
        return "\n".join([*lines, "", exchange.text[:SHOWN_CHARACTERS]])[: 2 * SHOWN_CHARACTERS]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, CaseFailed | case_call.CallError | case_server.ServerError):
            return str(excinfo.value)
        if isinstance(excinfo.value, httpx2.TransportError):
            return f"no answer: {excinfo.value!r}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.stem}: {self.name}"
