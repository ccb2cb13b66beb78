"""Prices of tokens, and what a call costs."""

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from apps.core.calls import Usage

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


def priced(usage: Usage, price: Price | None) -> Usage:
    """The usage with its cost: the one that it reports itself, else by the price where that is known."""
    if usage.cost is not None or price is None:
        return usage
    return replace(usage, cost=cost(price, usage.prompt_tokens, usage.completion_tokens))
