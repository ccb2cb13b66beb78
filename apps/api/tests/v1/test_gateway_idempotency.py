"""Idempotency-Key: the same call is executed once and answered alike; another body under it is a conflict."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.src.v1.cached import KEPT_SECONDS, Identity, Recordings
from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.core.errors import AppError, Conflict, UpstreamError
from apps.tests.support.caching import caching
from apps.tests.support.clock import Clock
from apps.tests.support.reading import connect, post
from apps.tests.support.routing import ASK, HEALTHY, provider, routing_file
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

CHAT = "/v1/chat/completions"
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture
def url(mock: MockUpstream) -> Iterator[str]:
    mock.reset()
    with serving_models(openai_base_url=mock.base_url, retry_backoff=0.01, read_timeout=1) as base:
        yield base


def ask(url: str, key: str, model: str = HEALTHY, stream: bool = False, **more: Any) -> httpx2.Response:
    headers = {"Idempotency-Key": key, **more.pop("headers", {})}
    return httpx2.post(url + CHAT, json={"model": model, "stream": stream, **ASK, **more}, headers=headers, timeout=90)


@both_ways
def test_the_same_call_is_executed_once_and_answered_with_the_same_bytes(
    stream: bool, url: str, mock: MockUpstream
) -> None:
    answers = [ask(url, "k", stream=stream) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "replay", "replay"]
    assert len({(answer.headers["Content-Type"], answer.headers["X-Model"]) for answer in answers}) == 1
    assert mock.stats()["requests"] == 1


@both_ways
def test_calls_under_way_are_joined(stream: bool, url: str, mock: MockUpstream) -> None:
    answers: list[httpx2.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(url, "k", "slow-50", stream))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.content for answer in answers}) == 1
    assert sorted(answer.headers["X-Cache"] for answer in answers) == ["miss"] + ["replay"] * 4
    assert mock.stats()["requests"] == 1


@both_ways
def test_a_replays_record_says_what_the_first_call_was_and_cost(
    stream: bool, mock: MockUpstream, tmp_path: Path
) -> None:
    priced = provider(mock.base_url, prices={"*": {"input": 1, "output": 2}})
    file = routing_file(tmp_path, {"providers": {"main": priced}, "default_provider": "main"})
    with caching(gateway_config=file) as keyed:
        for _ in range(3):
            assert keyed.ask(stream=stream, headers={"Idempotency-Key": "k"}).status_code == 200
        assert until(lambda: len(keyed.books.closed) == 3)
    paid, *replays = keyed.books.closed
    assert paid.cost
    for replay in replays:
        assert (replay.cache, replay.outcome, replay.cost, replay.saved) == ("replay", "ok", 0.0, paid.cost)
        assert (replay.model, replay.provider, replay.streamed) == (paid.model, "main", stream)
        assert (replay.prompt_tokens, replay.completion_tokens) == (paid.prompt_tokens, paid.completion_tokens)
        assert (replay.attempts, replay.queued, replay.estimated_tokens, replay.estimated_cost) == (0, 0, 0, 0)


def test_a_replay_of_what_has_no_price_saves_nothing(mock: MockUpstream) -> None:
    with caching(openai_base_url=mock.base_url) as keyed:
        for _ in range(2):
            keyed.ask(headers={"Idempotency-Key": "k"})
        assert until(lambda: len(keyed.books.closed) == 2)
    assert [(record.cost, record.saved) for record in keyed.books.closed] == [(None, 0.0), (0.0, 0.0)]


def test_another_body_under_the_key_is_a_conflict(url: str, mock: MockUpstream) -> None:
    ask(url, "k")
    for other in ({"seed": 1}, {"stream": True}, {"model": "other"}):
        answer = ask(url, "k", **other)
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert (error["code"], error["field"]) == ("CONFLICT", "Idempotency-Key")
    assert mock.stats()["requests"] == 1


def test_keys_belong_to_their_callers(url: str, mock: MockUpstream) -> None:
    ask(url, "k", headers={"Authorization": "Bearer one"})
    other = ask(url, "k", seed=1, headers={"Authorization": "Bearer two"})
    assert (other.status_code, other.headers["X-Cache"]) == (200, "miss")
    assert mock.stats()["requests"] == 2


@both_ways
@pytest.mark.parametrize("model", ["fault-400", "fault-500", "fault-cut"])
def test_a_failure_is_not_kept(model: str, stream: bool, url: str, mock: MockUpstream) -> None:
    first = ask(url, "k", model, stream)
    calls = mock.stats()["requests"]
    second = ask(url, "k", model, stream)
    assert mock.stats()["requests"] > calls
    assert first.status_code == second.status_code
    assert b"error" in second.content
    assert "replay" not in second.headers.get("X-Cache", "")


@both_ways
@pytest.mark.long
def test_a_first_caller_that_leaves_does_not_break_the_one_that_joined(
    stream: bool, url: str, mock: MockUpstream
) -> None:
    first = connect(url)
    body = {"model": "slow-100" if stream else "slow-1000", "stream": stream, **ASK}
    first.sendall(post(CHAT, json.dumps(body).encode(), "Idempotency-Key: k"))
    assert until(lambda: mock.stats()["open"] == 1)
    answers: list[httpx2.Response] = []

    def join() -> None:
        content = json.dumps(body).encode()
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        answers.append(httpx2.post(url + CHAT, content=content, headers=headers, timeout=90))

    second = threading.Thread(target=join)
    second.start()
    time.sleep(0.3)
    first.close()
    second.join()
    assert answers[0].status_code == 200
    assert b"error" not in answers[0].content
    assert mock.stats()["requests"] == 1


@both_ways
@pytest.mark.long
def test_when_everyone_has_left_the_call_is_given_up_and_can_be_made_again(
    stream: bool, url: str, mock: MockUpstream
) -> None:
    with connect(url) as alone:
        body = {"model": "slow-300", "stream": stream, **ASK}
        alone.sendall(post(CHAT, json.dumps(body).encode(), "Idempotency-Key: k"))
        assert until(lambda: mock.stats()["open"] == 1)
    assert until(lambda: mock.stats()["open"] == 0)
    answer = ask(url, "k", "slow-300", stream)
    assert (answer.status_code, answer.headers["X-Cache"]) == (200, "miss")


def test_a_callers_deadline_is_its_own(url: str, mock: MockUpstream) -> None:
    patient: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: patient.append(ask(url, "k", "slow-500")))
    thread.start()
    assert until(lambda: mock.stats()["open"] == 1)
    hasty = ask(url, "k", "slow-500", headers={"X-Deadline-Ms": "50"})
    thread.join()
    assert (hasty.status_code, patient[0].status_code) == (504, 200)
    assert mock.stats()["requests"] == 1


@both_ways
def test_a_call_that_the_disk_refuses_is_not_kept_under_its_key_and_can_be_made_when_there_is_room(
    stream: bool, mock: MockUpstream, tmp_path: Path
) -> None:
    mock.reset()
    folder = tmp_path / "journal"
    folder.write_text("a file where the journal's folder should be")
    with serving_models(openai_base_url=mock.base_url, data_dir=tmp_path, ledger_journal="required") as url:
        for _ in range(2):
            refused = ask(url, "k", stream=stream)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "INSUFFICIENT_STORAGE")
        assert mock.stats()["requests"] == 0
        folder.unlink()
        assert until(lambda: ask(url, "k", stream=stream).status_code == 200)
        assert ask(url, "k", stream=stream).headers["X-Cache"] == "replay"
        assert mock.stats()["requests"] == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_a_bad_key_is_refused(key: str, url: str, mock: MockUpstream) -> None:
    answer = ask(url, key)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "Idempotency-Key")
    assert mock.stats()["requests"] == 0


def call() -> CallRecord:
    return CallRecord(ANONYMOUS, "/v1/chat/completions", "m")


async def record(recordings: Recordings, key: str, *frames: bytes | Exception, asked: str = "") -> bytes | None:
    """What the caller is answered; None where it was replayed."""

    async def execute(_: object) -> AsyncGenerator[bytes, None]:
        for frame in frames:
            await asyncio.sleep(0)
            if isinstance(frame, Exception):
                raise frame
            yield frame

    own = call()
    recording = recordings.join(Identity(key.encode(), asked.encode()), own, execute)
    answer = b"".join([frame async for frame in recording.read(None)])
    return answer if recording.record is own else None


async def test_an_answer_is_kept_for_a_day() -> None:
    clock = Clock()
    recordings = Recordings(clock=clock)
    assert await record(recordings, "k", b"a", b"b") == b"ab"
    clock.now = KEPT_SECONDS - 1
    assert await record(recordings, "k", b"a", b"b") is None
    clock.now = KEPT_SECONDS
    assert await record(recordings, "k", b"c") == b"c"
    assert (len(recordings), recordings.size) == (1, 1)


async def test_memory_is_bounded_in_number_and_bytes_and_the_oldest_go_first() -> None:
    recordings = Recordings(most=3, most_bytes=100, largest=60)
    for key in "abcd":
        await record(recordings, key, b"x")
    assert (len(recordings), recordings.size) == (3, 3)
    assert await record(recordings, "d", b"x") is None
    await record(recordings, "e", b"x" * 60)
    await record(recordings, "f", b"x" * 60)
    assert (len(recordings), recordings.size) == (1, 60)
    assert await record(recordings, "f", b"") is None


async def test_an_answer_that_is_too_large_is_given_but_not_kept() -> None:
    recordings = Recordings(largest=10)
    assert await record(recordings, "k", b"x" * 11) == b"x" * 11
    assert (len(recordings), recordings.size) == (0, 0)


async def test_a_conflict_is_told_while_the_call_is_under_way_too() -> None:
    recordings = Recordings()
    forever = asyncio.Event()

    async def execute(_: object) -> AsyncGenerator[bytes, None]:
        await forever.wait()
        yield b""

    recordings.join(Identity(b"k", b"one"), call(), execute)
    with pytest.raises(Conflict):
        recordings.join(Identity(b"k", b"two"), call(), execute)
    forever.set()
    await asyncio.sleep(0)


async def test_each_reader_gets_an_error_of_its_own() -> None:
    recordings = Recordings()

    async def execute(_: object) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.01)
        raise UpstreamError("no", upstream_status=200, retry_after=3)
        yield b""

    recording = recordings.join(Identity(b"k", b""), call(), execute)

    async def read() -> AppError:
        with pytest.raises(UpstreamError) as raised:
            async for _ in recording.read(None):
                pass
        return raised.value

    one, two = await asyncio.gather(read(), read())
    assert one is not two
    assert one.envelope() == two.envelope()
    assert len(recordings) == 0
