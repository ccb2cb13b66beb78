"""What an upstream says of a refused call reaches the caller without an address or a key."""

import json
from typing import Any

import pytest

from apps.models.upstream_errors import LONGEST_MESSAGE, read_rejection

TOO_LONG = "context_length_exceeded"


def told(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (told("Bad image"), "Bad image"),
        (b'[{"error": {"code": 400, "message": "Bad image", "status": "INVALID_ARGUMENT"}}]', "Bad image"),
        (b'{"error": "Bad image"}', "Bad image"),
        (b'{"message": "Bad image", "object": "error"}', "Bad image"),
        (b'{"detail": "Bad image"}', "Bad image"),
        (b'{"detail": [{"loc": ["body"], "msg": "Bad image"}, {"msg": "Bad tool"}]}', "Bad image; Bad tool"),
        (b"<html>nginx</html>", "The upstream refused the call"),
        (b"[" * 100_000, "The upstream refused the call"),
        (b"", "The upstream refused the call"),
        (b'{"error": {"message": 3}}', "The upstream refused the call"),
        (b'{"error": {"message": "a \\ud800 b"}}', "a ? b"),
    ],
)
def test_the_message_is_found_in_every_shape(body: bytes, message: str) -> None:
    assert read_rejection(400, body).message == message


@pytest.mark.parametrize(
    "secret",
    [
        "https://api.example.com/v1/chat?key=1",
        "10.0.0.7",
        "10.0.0.7:8000",
        "[fd00::1:2]:8000",
        "fe80:0:0:0:1:2:3:4",
        "localhost:11434",
        "vllm-0.models.svc",
        "gpu-box:8000",
        "llm.internal.corp",
        "sk-proj-abcdefgh12345678",
        "Bearer abcdefgh12345678",
        "0123456789abcdef0123456789abcdef",
        "upstream-host",
    ],
)
def test_no_address_and_no_key_is_left(secret: str) -> None:
    message = read_rejection(400, told(f"Cannot do that at {secret}, sorry"), ["upstream-host"]).message
    assert secret not in message
    assert message.startswith("Cannot do that at") and message.endswith("sorry")


@pytest.mark.parametrize("plain", ["messages.0.content is wrong", "gpt-4.1 takes no images", "max 4096, got 5000: no"])
def test_ordinary_words_stay(plain: str) -> None:
    assert read_rejection(400, told(plain)).message == plain


def test_a_message_is_bounded() -> None:
    assert len(read_rejection(400, told("word " * 10_000)).message) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (told("x", code="invalid_image"), "invalid_image"),
        (told("x", code="our_own_secret_code"), None),
        (told("x", code=400), None),
        (told("x", code=["invalid_image"]), None),
        (
            told("This model's maximum context length is 2048 tokens. However, you requested 3000"),
            "context_length_exceeded",
        ),
        (
            told("the request exceeds the available context size", type="exceed_context_size_error"),
            "context_length_exceeded",
        ),
        (told("prompt is too long: 210000 tokens > 200000 maximum"), TOO_LONG),
        (told("Input exceeds the context window of this model"), TOO_LONG),
    ],
)
def test_a_code_is_one_that_is_known(body: bytes, code: str | None) -> None:
    assert read_rejection(400, body).code == code


@pytest.mark.parametrize(
    ("param", "kept"), [("messages[0].content", True), ("a b", False), (3, False), ("x" * 200, False), ("tools", True)]
)
def test_a_param_is_a_path_of_a_field(param: Any, kept: bool) -> None:
    assert read_rejection(400, told("x", param=param)).param == (param if kept else None)
