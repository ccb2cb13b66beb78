"""Retries: the one owner of them. Only what fails before the first delta is tried again."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from apps.core.deltas import Begun, Delta, begin
from apps.core.errors import AppError, UpstreamError, UpstreamUnavailable
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel
from apps.models.wrapper import WrapperModel

if TYPE_CHECKING:
    from tenacity import RetryCallState

LONGEST_WAIT = 8.0


class RetryingModel(WrapperModel):
    """At most ``attempts`` calls; waits ``backoff`` seconds, then twice that, up to 8.

    An upstream's Retry-After counts instead of the wait, up to 8 s. The error of the last attempt is raised with
    ``details.attempts``.
    """

    def __init__(self, inner: ChatModel, *, attempts: int, backoff: float) -> None:
        super().__init__(inner)
        self._attempts = attempts
        self._backoff = backoff

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        # imported by the first call: it is a tenth of what the app adds to FastAPI's own import
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_exception(_retryable),
            retry_error_callback=_raise_last,
        )
        begun: Begun = await retrying(self._begin, request)
        async with aclosing(begun.rest) as rest:
            yield begun.first
            try:
                async for delta in rest:
                    yield delta
            except UpstreamUnavailable as error:
                details = {"upstream_status": 200, **error.details}
                raise UpstreamError("The upstream's answer was cut off", details=details) from error

    async def _begin(self, request: ChatRequest) -> Begun:
        return await begin(self.inner.stream(request))

    def _wait(self, state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, AppError) and error.retry_after is not None:
            return min(error.retry_after, LONGEST_WAIT)
        return float(min(self._backoff * 2 ** (state.attempt_number - 1), LONGEST_WAIT))


def _retryable(error: BaseException) -> bool:
    return isinstance(error, AppError) and error.retryable


def _raise_last(state: "RetryCallState") -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, AppError):
        error.details["attempts"] = state.attempt_number
    if error:
        raise error
