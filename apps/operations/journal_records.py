"""Records of the journal: a call as bytes, and the calls of a file's bytes.

A record is its length and its checksum, each four bytes, and the call: numbers in their places, lengths of texts, and
the texts. A length of 0 is the end. What is cut off at the end is no record: its call was not answered.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import cast

from apps.core.callers import Budget, Caller, Period
from apps.core.calls import CacheUse, CallRecord, Usage

FORMAT = 2
HEADER = struct.Struct("<II")
# format and facts; counts; times and money; lengths of texts
NUMBERS = struct.Struct("<BB4q8d10I")
STREAMED, HAS_KEY, HAS_BUDGET, HAS_USAGE, ESTIMATED = 1, 2, 4, 8, 16
UNKNOWN = math.nan
MOST_TOKENS = 2**62
MOST_CHARACTERS = 200
END = b"\0" * HEADER.size


def encoded(call: CallRecord) -> bytes:
    """A record with all that a row is made of: numbers in their places, lengths of texts, and the texts."""
    caller, usage, budget = call.caller, call.usage, call.caller.budget
    first_token, spent, estimated_cost = call.first_token, call.spent, call.estimated_cost
    facts = STREAMED if call.streamed else 0
    key_id, period, budget_usd, cost = caller.key_id, "", 0.0, None
    prompt = completion = cached = 0
    if key_id is not None:
        facts |= HAS_KEY
    if budget is not None:
        facts |= HAS_BUDGET
        period, budget_usd = budget.period, budget.usd
    if usage is not None:
        facts |= HAS_USAGE | (ESTIMATED if usage.estimated else 0)
        prompt, completion, cached, cost = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cost
        if prompt > MOST_TOKENS or completion > MOST_TOKENS or cached > MOST_TOKENS:
            # an upstream may say any number
            prompt, completion, cached = (min(count, MOST_TOKENS) for count in (prompt, completion, cached))
    texts = (
        call.id,
        caller.tenant,
        key_id or "",
        period,
        call.route,
        call.asked[:MOST_CHARACTERS],
        call.model[:MOST_CHARACTERS],
        call.provider,
        call.outcome,
        call.cache,
    )
    numbers = NUMBERS.pack(
        FORMAT,
        facts,
        call.attempts,
        prompt,
        completion,
        cached,
        call.begun_at,
        call.queued,
        call.duration,
        budget_usd,
        UNKNOWN if first_token is None else first_token,
        UNKNOWN if spent is None else spent,
        UNKNOWN if estimated_cost is None else estimated_cost,
        UNKNOWN if cost is None else cost,
        *map(len, texts),
    )
    data = numbers + "".join(texts).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(data), zlib.crc32(data)) + data


def decoded(data: bytes) -> CallRecord:
    """Raises ValueError for what `encoded` did not make."""
    if len(data) < NUMBERS.size or data[0] != FORMAT:
        raise ValueError("another format")
    _, facts, attempts, prompt, completion, cached, *rest = NUMBERS.unpack_from(data)
    begun_at, queued, duration, budget_usd = rest[:4]
    first_token, spent, estimated_cost, cost = (None if math.isnan(number) else number for number in rest[4:8])
    text, at, texts = data[NUMBERS.size :].decode("utf-8", "surrogatepass"), 0, []
    for length in rest[8:]:
        texts.append(text[at : at + length])
        at += length
    id, tenant, key_id, period, route, asked, model, provider, outcome, cache = texts
    usage = None
    if facts & HAS_USAGE:
        usage = Usage(prompt, completion, cached, cost, estimated=bool(facts & ESTIMATED))
    return CallRecord(
        Caller(
            tenant,
            key_id if facts & HAS_KEY else None,
            budget=Budget(budget_usd, cast(Period, period)) if facts & HAS_BUDGET else None,
        ),
        route,
        asked,
        streamed=bool(facts & STREAMED),
        estimated_cost=estimated_cost,
        id=id,
        begun_at=begun_at,
        model=model,
        provider=provider,
        outcome=outcome,
        cache=cast(CacheUse, cache),
        attempts=attempts,
        queued=queued,
        first_token=first_token,
        duration=duration,
        usage=usage,
        spent=spent,
    )


def records_of(data: bytes) -> Iterator[bytes]:
    """The records of a file's bytes that are whole, without their lengths and checksums."""
    at = 0
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        record = data[at + HEADER.size : at + HEADER.size + length]
        if not length or len(record) < length or zlib.crc32(record) != checksum:
            return
        yield record
        at += HEADER.size + length
