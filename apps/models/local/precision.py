"""Which number format the plain engine computes in, and why: LOCAL_PRECISION, the CPU and the model's size."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "bf16", "fp32", "int8", "int4"]
# in fp32 a 1.1-billion-parameter model takes 4.4 GB, over what a small machine has to give
LARGEST_FP32_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    precision: Literal["bf16", "fp32"]
    reason: str


def choose_precision(asked: Precision, parameters: int, *, native_bf16: bool) -> Choice:
    """``parameters`` is the model's number of weights; ``native_bf16`` whether the CPU multiplies bf16 itself."""
    if asked == "bf16" or asked == "fp32":
        return Choice(asked, f"LOCAL_PRECISION={asked}")
    chosen = _automatic(parameters, native_bf16=native_bf16)
    if asked == "auto":
        return chosen
    return Choice(
        chosen.precision,
        f"LOCAL_PRECISION={asked} is not served by the plain engine, which computes in bf16 or fp32; {chosen.reason}",
    )


def _automatic(parameters: int, *, native_bf16: bool) -> Choice:
    if native_bf16:
        return Choice("bf16", "auto: this CPU computes in bf16 itself")
    if parameters * 4 <= LARGEST_FP32_BYTES:
        return Choice("fp32", "auto: this CPU has no bf16 arithmetic, and the model is small enough for fp32")
    return Choice("bf16", f"auto: {parameters * 4 / 1e9:.1f} GB in fp32 is too much, bf16 takes half of it")
