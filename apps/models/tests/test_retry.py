"""Retries: before the first delta only, as many as set, and never after a refusal."""

import asyncio
import time
from collections.abc import AsyncIterable, Sequence

import pytest

from apps.core.deltas import Delta, collect
from apps.core.errors import (
    AppError,
    InternalError,
    RateLimitExceeded,
    Timeout,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from apps.core.messages import ChatRequest, user_message
from apps.models.retry import RetryingModel
from apps.models.scripted import ScriptedModel, Step

REQUEST = ChatRequest(user_message("hi"))
DONE = Delta(finish_reason="stop")


class Attempts(ScriptedModel):
    """Follows one script an attempt."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        super().__init__(lambda request: scripts[len(self.requests) - 1])


async def answered(model: RetryingModel) -> str:
    return (await collect(model.stream(REQUEST))).text


async def failed(deltas: AsyncIterable[Delta]) -> tuple[str, AppError]:
    text = ""
    try:
        async for delta in deltas:
            text += delta.text
    except AppError as error:
        return text, error
    raise AssertionError("the stream did not fail")


@pytest.mark.parametrize("error", [UpstreamUnavailable("x"), UpstreamTimeout("x")])
async def test_what_is_worth_another_attempt_gets_one(error: AppError) -> None:
    inner = Attempts([error], [error], [Delta("ok"), DONE])
    assert await answered(RetryingModel(inner, attempts=3, backoff=0)) == "ok"
    assert (len(inner.requests), inner.open) == (3, 0)


@pytest.mark.parametrize("error", [UpstreamError("x"), RateLimitExceeded("x"), InternalError("x")])
async def test_a_refusal_is_final(error: AppError) -> None:
    inner = Attempts([error])
    _, raised = await failed(RetryingModel(inner, attempts=3, backoff=0).stream(REQUEST))
    assert raised is error
    assert len(inner.requests) == 1
    assert "attempts" not in raised.details


@pytest.mark.parametrize(
    ("error", "kind", "status"), [(UpstreamUnavailable, InternalError, 500), (UpstreamTimeout, Timeout, 504)]
)
async def test_the_last_error_counts_the_attempts(error: type[AppError], kind: type[AppError], status: int) -> None:
    inner = Attempts(*[[error("x", details={"cause": "c"})] for _ in range(3)])
    _, raised = await failed(RetryingModel(inner, attempts=3, backoff=0).stream(REQUEST))
    assert isinstance(raised, kind)
    assert (raised.status, raised.details) == (status, {"cause": "c", "attempts": 3})
    assert (len(inner.requests), inner.open) == (3, 0)


async def test_one_attempt_means_no_retry() -> None:
    inner = Attempts([UpstreamUnavailable("x")])
    _, raised = await failed(RetryingModel(inner, attempts=1, backoff=0).stream(REQUEST))
    assert raised.details["attempts"] == 1


async def test_after_the_first_delta_there_is_exactly_one_execution() -> None:
    inner = Attempts([Delta("part"), UpstreamUnavailable("x", details={"cause": "network error"})])
    text, raised = await failed(RetryingModel(inner, attempts=3, backoff=0).stream(REQUEST))
    assert (text, raised.code, raised.details["cause"]) == ("part", "UPSTREAM_ERROR", "network error")
    assert (len(inner.requests), inner.open) == (1, 0)


async def test_a_timeout_after_the_first_delta_is_a_timeout() -> None:
    inner = Attempts([Delta("part"), UpstreamTimeout("x")])
    _, raised = await failed(RetryingModel(inner, attempts=3, backoff=0).stream(REQUEST))
    assert raised.code == "TIMEOUT"
    assert len(inner.requests) == 1


async def test_waits_double_from_the_first_one() -> None:
    inner = Attempts([UpstreamUnavailable("x")], [UpstreamUnavailable("x")], [Delta("ok"), DONE])
    began = time.monotonic()
    await answered(RetryingModel(inner, attempts=3, backoff=0.1))
    assert 0.3 <= time.monotonic() - began < 5


async def test_a_retry_after_counts_instead_of_the_wait() -> None:
    inner = Attempts([UpstreamUnavailable("x", retry_after=0.2)], [Delta("ok"), DONE])
    began = time.monotonic()
    await answered(RetryingModel(inner, attempts=3, backoff=30))
    assert 0.2 <= time.monotonic() - began < 5


async def test_a_long_wait_is_cut_to_eight_seconds() -> None:
    from tenacity import RetryCallState

    model = RetryingModel(ScriptedModel(lambda _: []), attempts=10, backoff=1)
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    waits = []
    for attempt in range(1, 7):
        state.attempt_number = attempt
        waits.append(model._wait(state))
    assert waits == [1, 2, 4, 8, 8, 8]
    error = UpstreamUnavailable("x", retry_after=3600)
    state.set_exception((type(error), error, None))
    assert model._wait(state) == 8


async def test_closing_the_stream_closes_what_is_behind_it() -> None:
    inner = Attempts([Delta("part"), 60.0])
    stream = RetryingModel(inner, attempts=3, backoff=0).stream(REQUEST)
    await anext(stream)
    assert inner.open == 1
    await stream.aclose()
    assert inner.open == 0


@pytest.mark.parametrize("script", [[60.0], [UpstreamUnavailable("x", retry_after=8)]])
async def test_cancelling_before_the_first_delta_ends_the_attempt(script: list[Step]) -> None:
    inner = Attempts(script, script, script)
    task = asyncio.ensure_future(anext(RetryingModel(inner, attempts=3, backoff=8).stream(REQUEST)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(inner.requests), inner.open) == (1, 0)


async def test_an_empty_stream_is_a_cut_one() -> None:
    inner = Attempts([])
    _, raised = await failed(RetryingModel(inner, attempts=3, backoff=0).stream(REQUEST))
    assert raised.code == "UPSTREAM_ERROR"
    assert inner.open == 0
