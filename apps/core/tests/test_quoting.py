"""Errors say the name that nobody has, and no key that was sent as one."""

import pytest

from apps.core.errors import quoted


@pytest.mark.parametrize("name", ["gpt-4o-mini", "groq/llama-3.3-70b", "task-9-and-more-of-it", "sk-short", ""])
def test_a_name_is_as_it_was(name: str) -> None:
    assert quoted(name) == name


@pytest.mark.parametrize(
    "key",
    [
        *("sk-3Gh8Jd5Sf1Qw6Er9Ty2U", "ga_" + "aB3-" * 10, "AIzaSyA1b2C3d4E5", "SK-12345678", "sk_live12345"),
        *("pk-12345678", "rk-12345678", "gsk_12345678", "xai-12345678", "ghp_12345678", "hf_12345678"),
    ],
)
def test_a_key_is_not_repeated(key: str) -> None:
    assert quoted(f"team/{key}") == "team/[redacted]"


def test_a_long_name_is_cut_and_so_is_no_key_into_a_piece_of_one() -> None:
    assert quoted("x" * 500) == "x" * 100
    assert "sk-" not in quoted("x " * 47 + "sk-3Gh8Jd5Sf1Qw6Er9Ty2U")
