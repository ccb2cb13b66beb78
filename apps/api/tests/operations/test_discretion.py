"""Keys and prompts are nowhere: a real process with marked ones, driven through every way a call can go.

Not one of them, nor eight characters of one, in the log, in the metrics, in what a collector gets, or in an error.
"""

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from apps.tests.overheard import hearing_client
from apps.tests.support.collector import Collector, collector
from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment
from apps.tests.support.reading import connect, post
from apps.tests.support.waiting import until
from eval.mock_upstream import mock_upstream

UPSTREAM_KEY = "sk-7Kq2vXw9Rt4LmZp8Yb3N"
PROVIDER_KEY = "Zx81Qm46Jw27Vb93Ty50Lp"
SECRET_KEY = "Hd62Ns95Kf38Xc17Gu04RaYp37Zm61Vt"
CALLERS_KEY = "sk-3Gh8Jd5Sf1Qw6Er9Ty2U"
COLLECTORS_KEY = "Bv74Cx29Mn83Lk56Po10Iu"
PROMPT = "Wq93-Ez58-Rv27-Tb64-Yn81-later"
KEYS = (UPSTREAM_KEY, PROVIDER_KEY, SECRET_KEY, CALLERS_KEY, COLLECTORS_KEY)
HEADERS = {"Authorization": f"Bearer {CALLERS_KEY}", "X-API-Key": CALLERS_KEY}
SIGNS = 8


def found(text: bytes | str, secrets: tuple[str, ...]) -> list[str]:
    """Every piece of eight characters of a secret that is in the text."""
    data = text.encode() if isinstance(text, str) else text
    windows = (secret[at : at + SIGNS] for secret in secrets for at in range(len(secret) - SIGNS + 1))
    return [window for window in windows if window.encode() in data]


class Driven:
    """The service, what it said to its callers, and what it left behind."""

    def __init__(self, url: str, log: Path, taken: Collector) -> None:
        self.url = url
        self.log = log
        self.taken = taken
        self.errors: list[str] = []
        self.metrics = ""

    def drive(self) -> None:
        with hearing_client(base_url=self.url, headers=HEADERS, timeout=90) as http:
            self._models(http)
            self._mistakes(http)
            self._leave()
            assert until(lambda: "CLIENT_GONE" in http.get("/metrics").text)
            self.metrics = http.get("/metrics").text

    def _models(self, http: httpx2.Client) -> None:
        messages = [{"role": "user", "content": PROMPT}]
        for model in (
            "gpt-4o-mini",
            "echo",
            "fault-500",
            "fault-401",
            "fault-badjson",
            "fault-rst",
            "scripted",
            "made-up",
        ):
            for stream in (False, True):
                body = {"model": model, "messages": messages, "stream": stream}
                self._note(http.post(f"/v1/chat/completions?api_key={CALLERS_KEY}", json=body))
        for path in ("/generate", "/local/generate"):
            for query in ("", "?stream=true"):
                self._note(http.post(path + query, json={"prompt": PROMPT, "model": None}))
        self._note(http.post("/local/generate", json={"prompt": PROMPT.removesuffix("-later")}))

    def _mistakes(self, http: httpx2.Client) -> None:
        headers = {"Content-Type": "application/json"}
        broken = f'{{"prompt": "{PROMPT}", "key": "{CALLERS_KEY}"'
        for path in ("/generate", "/v1/chat/completions"):
            self._note(http.post(path, content=broken, headers=headers))
            self._note(http.post(path, content=json.dumps({"prompt": PROMPT, "temperature": 9}), headers=headers))
        self._note(http.post("/generate", json={"prompt": PROMPT}, headers={"Content-Type": f"text/{CALLERS_KEY}"}))
        http.get(f"/{CALLERS_KEY}/nowhere?key={CALLERS_KEY}")
        http.get(f"/v1/models/{CALLERS_KEY}")
        http.request("OPTIONS", "/generate", headers={"Origin": "http://a", "Access-Control-Request-Method": "PUT"})

    def _leave(self) -> None:
        """In the middle of a stream."""
        body = {"model": "slow-300", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        with connect(self.url) as connection:
            request = post("/v1/chat/completions", json.dumps(body).encode(), f"Authorization: Bearer {CALLERS_KEY}")
            connection.sendall(request)
            connection.recv(65536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _note(self, answer: httpx2.Response) -> None:
        if answer.status_code >= 400 or "event: error" in answer.text or '"error"' in answer.text:
            self.errors.append(f"{answer.headers} {answer.text}")


@pytest.fixture(scope="module", params=["json", pytest.param("console", marks=pytest.mark.long)])
def driven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    folder, port = tmp_path_factory.mktemp("driven"), free_port()
    with mock_upstream(tokens=4) as mock, collector() as taken:
        secrets = {"OPENAI_API_KEY": UPSTREAM_KEY, "GROQ_API_KEY": PROVIDER_KEY, "SECRET_KEY": SECRET_KEY}
        secrets["DATA_DIR"] = str(folder)
        telemetry = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": taken.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {COLLECTORS_KEY}",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }
        own = {
            "OPENAI_BASE_URL": mock.base_url,
            "LOG_FORMAT": request.param,
            "LOG_LEVEL": "debug",
            "RETRY_BACKOFF": "0",
        }
        command = ["uvicorn", "apps.tests.support.crashing_service:app", "--host", "127.0.0.1", "--port", str(port)]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=environment(port, secrets | telemetry | own),
                stdout=output,
                stderr=output,
            )
        try:
            service = Driven(f"http://127.0.0.1:{port}", log, taken)
            assert until(lambda: "Uvicorn running on" in log.read_text()), log.read_text()
            service.drive()
            time.sleep(0.5)
            process.terminate()
            process.wait(90)
            yield service
        finally:
            process.kill()
            process.wait()


@pytest.mark.long
def test_the_drive_went_where_it_should(driven: Driven) -> None:
    log = driven.log.read_text()
    assert log.count("builtins.ValueError: [withheld") >= 2
    assert "Crash in a stream" in log
    assert {span.attributes.get("error.type") for span in driven.taken.spans} > {"INTERNAL_ERROR", "CLIENT_GONE"}
    assert "INTERNAL_ERROR" in driven.metrics
    assert len(driven.errors) > 10
    assert all(code in "".join(driven.errors) for code in ("INVALID_JSON", "UPSTREAM_ERROR", "INTERNAL_ERROR"))


@pytest.mark.long
def test_no_key_and_no_prompt_is_in_the_log(driven: Driven) -> None:
    assert found(driven.log.read_bytes(), (*KEYS, PROMPT)) == []


def test_no_key_and_no_prompt_is_in_the_metrics(driven: Driven) -> None:
    assert found(driven.metrics, (*KEYS, PROMPT)) == []


def test_no_key_and_no_prompt_is_in_what_the_collector_gets(driven: Driven) -> None:
    assert driven.taken.raw
    assert found(b"".join(driven.taken.raw), (*KEYS, PROMPT)) == []


def test_no_key_is_in_an_error(driven: Driven) -> None:
    assert found("".join(driven.errors), KEYS) == []


def test_every_line_in_json_is_an_object_with_its_requests_id(driven: Driven) -> None:
    lines = driven.log.read_text().splitlines()
    if not lines[0].startswith("{"):
        assert [line for line in lines if not line.startswith(("20", "    "))] == []
        return
    objects = [json.loads(line) for line in lines]
    assert all({"timestamp", "level", "event", "logger", "request_id"} <= set(one) for one in objects)
    access = [one for one in objects if one["logger"] == "apps.access"]
    crashes = [one for one in objects if one["event"].startswith("Crash")]
    assert crashes
    assert {one["request_id"] for one in crashes} <= {one["request_id"] for one in access}
