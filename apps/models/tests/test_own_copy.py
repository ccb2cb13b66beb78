"""An error that several readers raise is as rich for each of them."""

from apps.core.errors import InvalidValue, Rejection, UpstreamRejected
from apps.models.recording import own_copy


def test_a_copy_has_what_its_kind_knows_and_details_of_its_own() -> None:
    error = UpstreamRejected(Rejection(400, "Bad image", "invalid_image", "messages"))
    copy = own_copy(error)
    assert isinstance(copy, UpstreamRejected) and copy is not error
    assert (copy.rejection, copy.message, str(copy), copy.field) == (
        error.rejection,
        error.message,
        str(error),
        "messages",
    )
    copy.details["attempts"] = 2
    assert "attempts" not in error.details


def test_another_error_is_itself() -> None:
    error = ValueError("x")
    assert own_copy(error) is error
    assert own_copy(InvalidValue("x", retry_after=2)).retry_after == 2  # type: ignore[attr-defined]
