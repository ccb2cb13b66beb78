"""The error tree is the contract's table, and every error has the one envelope."""

import json

import pytest

from apps.core.errors import AppError, error_classes

TABLE = {
    "INVALID_JSON": 422,
    "MISSING_REQUIRED_FIELD": 422,
    "INVALID_TYPE": 422,
    "INVALID_VALUE": 422,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "UPSTREAM_ERROR": 502,
    "MODEL_UNAVAILABLE": 503,
    "OVERLOADED": 503,
    "TIMEOUT": 504,
}


def tree(root: type[AppError] = AppError) -> list[type[AppError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in tree(child))]


def test_the_tree_has_every_row_of_the_contract() -> None:
    assert TABLE.items() <= {cls.code: cls.status for cls in error_classes()}.items()


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_a_subclass_keeps_the_status_of_its_code_and_explains_itself(kind: type[AppError]) -> None:
    assert kind.status == {cls.code: cls.status for cls in error_classes()}[kind.code]
    assert kind.summary


def test_the_envelope_has_all_five_keys_even_where_nothing_is_known() -> None:
    assert json.loads(json.dumps(AppError("m").envelope())) == {
        "error": {"code": "INTERNAL_ERROR", "message": "m", "status": 500, "field": None, "details": {}}
    }


def test_only_a_failure_of_the_upstream_itself_is_worth_another_attempt() -> None:
    assert sorted(cls.__name__ for cls in tree() if cls.retryable) == ["UpstreamTimeout", "UpstreamUnavailable"]
