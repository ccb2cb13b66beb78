"""The tables, as of the last migration. Imported with SQLAlchemy.

A test holds the tables to what the migrations make. Times are seconds since 1970, so that both databases mean the same.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("tenant", String(100), nullable=False),
    # what is kept of the key itself: an HMAC, and a beginning that is too short to be of use
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    # patterns, as a JSON list
    Column("models", Text, nullable=False),
    Column("routes", Text, nullable=False),
    Column("networks", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("budget_usd", Float),
    Column("budget_period", String(8)),
    Column("semantic_cache", Float),
    Column("created_at", Float, nullable=False),
    Column("rotated_at", Float),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

key_changes = Table(
    "key_changes",
    metadata,
    # one row; the number grows with every change of a key, and tells the other processes to forget what they know
    Column("id", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
)

# The ledger: one row a call. Money is in billionths of a dollar, so that sums are exact.
calls = Table(
    "calls",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("begun_at", Float, nullable=False),
    # in UTC, as 2026-11-25
    Column("day", String(10), nullable=False),
    Column("tenant", String(100), nullable=False),
    Column("key_id", String(100)),
    Column("route", String(100), nullable=False),
    Column("asked", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("provider", String(100), nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("cache", String(10), nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("queued", Float, nullable=False),
    Column("first_token", Float),
    Column("duration", Float, nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached_tokens", BigInteger, nullable=False),
    # the tokens were not told, but counted by their pieces
    Column("estimated", Boolean, nullable=False),
    Column("cost", BigInteger),
    Column("saved", BigInteger, nullable=False),
    Index("ix_calls_day", "day"),
    Index("ix_calls_tenant", "tenant", "day"),
    Index("ix_calls_key_id", "key_id", "day"),
)

# What rows of ``calls`` were deleted for their age came to, by day and what else usage is told apart by. The rows' sums
# and these are the whole: no row is in both.
daily_usage = Table(
    "daily_usage",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("tenant", String(100), primary_key=True),
    # empty where the caller had no key
    Column("key_id", String(100), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("route", String(100), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cache_hits", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
    Index("ix_daily_usage_tenant", "tenant", "day"),
    Index("ix_daily_usage_key_id", "key_id", "day"),
)

# What a key has spent in a calendar day (2026-11-25) or month (2026-11), and what its running calls may yet spend.
budgets = Table(
    "budgets",
    metadata,
    Column("key_id", String(100), primary_key=True),
    Column("period", String(10), primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
)

# One row a running call of a key with a budget. One that is not renewed any more belongs to a dead process.
reservations = Table(
    "reservations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("key_id", String(100), nullable=False),
    Column("period", String(10), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

agent_runs = Table(
    "agent_runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(100), nullable=False),
    Column("key_id", String(32)),
    Column("agent", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("begun_at", Float, nullable=False, index=True),
    Column("ended_at", Float),
    Column("ends_by", Float, nullable=False),
    # JSON; ``state`` is the loop's own
    Column("steps", Text, nullable=False),
    Column("pending", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("model", String(200), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("error", Text),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("cost", Float),
)
