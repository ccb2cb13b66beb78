"""The server that the cases run against: a real process, with the case file's settings and none of the caller's."""

from pathlib import Path

import httpx2
import pytest

from eval.case_call import CallError, kept_streaming, run
from eval.case_schema import Case, Request
from eval.case_server import ServerError, local_state, server
from eval.mock_upstream import mock_upstream

NO_LOCAL = {"LOCAL_MODEL": "./no-model", "LOCAL_FALLBACK": "none"}
ASKS = {"method": "POST", "path": "/generate?stream=true"}


@pytest.mark.long
def test_nothing_of_the_callers_settings_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_PROMPT_CHARS", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "the-callers-own")
    with mock_upstream() as mock, server(NO_LOCAL, mock.base_url, tmp_path / "log") as url:
        answer = httpx2.post(f"{url}/generate", json={"prompt": "longer than one"}, timeout=90)
        assert answer.status_code == 200, answer.text
        assert mock.stats()["last_headers"]["authorization"] == "Bearer smoke-key"
        assert local_state(url)[0] in ("failed", "not_configured")


def test_one_that_does_not_start_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    wrong = {**NO_LOCAL, "RETRY_ATTEMPTS": "many"}
    with (
        pytest.raises(ServerError, match="Wrong setting RETRY_ATTEMPTS"),
        server(wrong, "http://127.0.0.1:1/v1", tmp_path / "log"),
    ):
        raise AssertionError("it started")


@pytest.mark.long
def test_a_kept_stream_is_open_while_the_case_runs_and_over_afterwards(tmp_path: Path) -> None:
    with mock_upstream() as mock, server(NO_LOCAL, mock.base_url, tmp_path / "log") as url:
        slow = Request.model_validate({**ASKS, "json": {"prompt": "hi", "model": "slow-300"}})
        with kept_streaming(url, slow):
            assert mock.stats()["open"] == 1
        assert (mock.stats()["open"], mock.stats()["aborted"]) == (0, 1)


@pytest.mark.long
def test_a_stream_that_does_not_begin_is_an_error_with_the_answer(tmp_path: Path) -> None:
    case = {"name": "one", "request": {"path": "/health"}, "expect": {"status": 200}, "meanwhile": {**ASKS, "json": {}}}
    with (
        server(NO_LOCAL, "http://127.0.0.1:1/v1", tmp_path / "log") as url,
        pytest.raises(CallError, match="MISSING_REQUIRED_FIELD"),
    ):
        run(Case.model_validate(case), url)


@pytest.mark.long
def test_calls_are_made_as_often_as_the_case_says(tmp_path: Path) -> None:
    case = {"name": "one", "before": 2, "expect": {"status": 200}, "request": {**ASKS, "json": {"prompt": "hi"}}}
    with mock_upstream() as mock, server(NO_LOCAL, mock.base_url, tmp_path / "log") as url:
        exchange = run(Case.model_validate(case), url)
        assert (exchange.status, exchange.cut, mock.stats()["requests"]) == (200, None, 3)


@pytest.mark.long
def test_a_broken_answer_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    body = {"prompt": "hi", "model": "fault-cut"}
    request = {**ASKS, "json": body, "headers": {"Accept": "text/plain"}}
    case = Case.model_validate({"name": "one", "expect": {"status": 200}, "request": request})
    with mock_upstream() as mock, server(NO_LOCAL, mock.base_url, tmp_path / "log") as url:
        exchange = run(case, url)
    assert exchange.status == 200
    assert exchange.text.startswith("the quick")
    assert exchange.cut


@pytest.mark.long
def test_the_log_is_kept_and_the_process_is_gone(tmp_path: Path) -> None:
    with server(NO_LOCAL, "http://127.0.0.1:1/v1", tmp_path / "log") as url:
        assert httpx2.get(f"{url}/health", timeout=90).status_code == 200
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health", timeout=90)
    assert "GET /health 200" in (tmp_path / "log").read_text()
