"""The tables, as of the last migration. SQLAlchemy Core; a test holds them to what the migrations make.

Times are seconds since 1970, so that both databases mean the same by them.
"""

from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, Text

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
