"""What a call used and cost, read from the bytes that passed through."""

import re

from apps.core.pricing import Price, cost
from apps.gateway.protocol import Receipt, Used

# keys only: inside a string of a model's text the quotes would be escaped
PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,12})')


COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,12})')


CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d{1,12})')


def note_usage(used: Used, body: bytes) -> None:
    """Take the tokens from a body or a block that has a usage object; the last one counts."""
    if b'"usage"' not in body:
        return
    prompts, completions = PROMPT.findall(body), COMPLETION.findall(body)
    if prompts:
        cached = CACHED.findall(body)
        used.note(int(prompts[-1]), int(completions[-1]) if completions else 0, int(cached[-1]) if cached else 0)


def cost_of(receipt: Receipt, price: Price | None) -> float | None:
    """US dollars; None where the price or the tokens are not known."""
    if price is None or receipt.prompt_tokens is None:
        return None
    return cost(price, receipt.prompt_tokens, receipt.completion_tokens or 0)
