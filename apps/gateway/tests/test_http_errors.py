"""The table of what goes wrong over HTTP: nothing is missing in it, and each is of the right kind."""

import inspect

import pytest

from apps.core.errors import AppError, Timeout, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from apps.models.upstream_errors import ERRORS, FAILURES, translate
from apps.transport import response as errors

FAILURE = errors.HttpFailure
FAMILY = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, FAILURE)]
FAMILY.remove(FAILURE)
MADE: dict[type[Exception], tuple[type[AppError], type[AppError]]] = {
    TimeoutError: (UpstreamTimeout, Timeout),
    errors.BadRequest: (UpstreamError, UpstreamError),
    errors.ConnectionFailed: (UpstreamUnavailable, UpstreamError),
    errors.Cut: (UpstreamUnavailable, UpstreamError),
    errors.ProtocolError: (UpstreamError, UpstreamError),
}


def test_every_failure_is_in_the_table_and_caught() -> None:
    assert [kind for kind, _ in ERRORS] == [TimeoutError, *FAMILY]
    assert set(MADE) == {TimeoutError, *FAMILY}
    assert all(issubclass(kind, FAILURES) for kind in MADE)


@pytest.mark.parametrize("kind", MADE)
def test_each_is_of_the_right_kind_and_repeats_nothing(kind: type[Exception]) -> None:
    before, behind = MADE[kind]
    assert type(translate(kind("hunter2"))) is before
    assert type(translate(kind("hunter2"), begun=True)) is behind
    for begun in (True, False):
        assert "hunter2" not in str(translate(kind("hunter2"), begun=begun).envelope())
