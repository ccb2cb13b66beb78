"""What a row of the ledger counts as in sums of usage: said once, for sums of rows and for those of deleted ones."""

from typing import Any

from sqlalchemy import case, func, literal_column

from apps.operations.tables import calls, daily_usage

CACHED = ("hit", "semantic", "replay")
C, D = calls.c, daily_usage.c
# written out, since PostgreSQL takes two parameters of one value for two expressions
NOTHING: Any = literal_column("''")
ONE: Any = literal_column("1")
ZERO: Any = literal_column("0")

GROUPED: dict[str, Any] = {
    "day": C.day,
    "tenant": C.tenant,
    "key": C.key_id,
    # a call that failed early was answered by nobody: it stands under the name that was asked for
    "model": func.coalesce(func.nullif(C.model, NOTHING), C.asked),
    "route": C.route,
}
COUNTED: dict[str, Any] = {
    "calls": ONE,
    "failed": case((C.outcome != "ok", ONE), else_=ZERO),
    "cache_hits": case((C.cache.in_(CACHED), ONE), else_=ZERO),
    "prompt_tokens": func.coalesce(C.prompt_tokens, ZERO),
    "completion_tokens": func.coalesce(C.completion_tokens, ZERO),
    "cached_tokens": C.cached_tokens,
    "cost_usd": func.coalesce(C.cost, ZERO),
    "saved_usd": C.saved,
}

DAILY_GROUPED: dict[str, Any] = {
    "day": D.day,
    "tenant": D.tenant,
    "key": func.nullif(D.key_id, NOTHING),
    "model": D.model,
    "route": D.route,
}
DAILY_COUNTED: dict[str, Any] = {
    "calls": D.calls,
    "failed": D.failed,
    "cache_hits": D.cache_hits,
    "prompt_tokens": D.prompt_tokens,
    "completion_tokens": D.completion_tokens,
    "cached_tokens": D.cached_tokens,
    "cost_usd": D.cost,
    "saved_usd": D.saved,
}
