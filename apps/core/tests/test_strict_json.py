"""What is read strictly can be written again."""

import pytest

from apps.core.messages import read_json_text


@pytest.mark.parametrize(
    ("text", "value"), [('{"a": [1, 2.5, null, "\\u00e9"]}', {"a": [1, 2.5, None, "é"]}), ("[]", []), ('"x"', "x")]
)
def test_json_is_read(text: str, value: object) -> None:
    assert read_json_text(text) == value


@pytest.mark.parametrize(
    "text", ["NaN", '{"x": Infinity}', "[-Infinity]", "1e999", '"\\ud800"', '{"\\udc00": 1}', "[" * 100_000, "", "{"]
)
def test_what_could_not_be_written_again_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_json_text(text)
