"""Daily sums of the calls whose rows are deleted after LEDGER_RETENTION_DAYS. Going back loses those sums."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "daily_usage",
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tenant", sa.String(100), nullable=False),
        sa.Column("key_id", sa.String(100), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("cache_hits", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("saved", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "tenant", "key_id", "model", "route", name="pk_daily_usage"),
    )
    op.create_index("ix_daily_usage_tenant", "daily_usage", ["tenant", "day"])
    op.create_index("ix_daily_usage_key_id", "daily_usage", ["key_id", "day"])


def downgrade() -> None:
    op.drop_table("daily_usage")
