"""The number format of a model on the plain engine: what was asked for, the CPU and the size decide."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "bf16", "fp32", "int8", "int4"]
# in fp32 a 1.1-billion-parameter model takes 4.4 GB, over what a small machine has to give
LARGEST_FP32_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class ChosenPrecision:
    precision: Literal["bf16", "fp32"]
    reason: str


def choose_precision(requested: Precision, parameters: int, *, native_bf16: bool) -> ChosenPrecision:
    """``parameters`` is the model's number of weights; ``native_bf16`` whether the CPU multiplies bf16 itself."""
    if requested == "bf16" or requested == "fp32":
        return ChosenPrecision(requested, f"LOCAL_PRECISION={requested}")
    chosen = _automatic(parameters, native_bf16=native_bf16)
    if requested == "auto":
        return chosen
    return ChosenPrecision(
        chosen.precision,
        f"LOCAL_PRECISION={requested} is not served by the plain engine, which computes in bf16 or fp32; "
        f"{chosen.reason}",
    )


def _automatic(parameters: int, *, native_bf16: bool) -> ChosenPrecision:
    if native_bf16:
        return ChosenPrecision("bf16", "auto: this CPU computes in bf16 itself")
    if parameters * 4 <= LARGEST_FP32_BYTES:
        return ChosenPrecision("fp32", "auto: this CPU has no bf16 arithmetic, and the model is small enough for fp32")
    return ChosenPrecision("bf16", f"auto: {parameters * 4 / 1e9:.1f} GB in fp32 is too much, bf16 takes half of it")
