"""Prices of tokens, and what a call costs."""

from pydantic import BaseModel, ConfigDict, Field

PER_MILLION = 1_000_000
# tokens of an answer whose request sets no limit
ASSUMED_ANSWER = 1_000


class Price(BaseModel):
    """US dollars for a million tokens."""

    # built when a file is read: building takes a tenth of a start
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


def cost(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """US dollars."""
    return (prompt_tokens * price.input + completion_tokens * price.output) / PER_MILLION
