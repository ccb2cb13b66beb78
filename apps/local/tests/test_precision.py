import pytest

from apps.local.engine.port import Precision, choose_precision

SMOL, TINY = 135_000_000, 1_100_000_000


@pytest.mark.parametrize(
    ("asked", "parameters", "native", "expected"),
    [
        ("bf16", SMOL, False, "bf16"),
        ("fp32", TINY, True, "fp32"),
        ("auto", SMOL, False, "fp32"),
        ("auto", SMOL, True, "bf16"),
        ("auto", TINY, False, "bf16"),
        ("int8", SMOL, False, "fp32"),
        ("int4", TINY, False, "bf16"),
    ],
)
def test_the_precision_follows_setting_then_cpu_then_size(
    asked: Precision, parameters: int, native: bool, expected: str
) -> None:
    assert choose_precision(asked, parameters, native_bf16=native).precision == expected


@pytest.mark.parametrize("asked", ["int8", "int4"])
def test_a_precision_that_is_not_served_is_named_in_the_reason(asked: Precision) -> None:
    assert f"LOCAL_PRECISION={asked} is not served" in choose_precision(asked, SMOL, native_bf16=False).reason
