"""The queue of documents that several machines ingest. Going back loses what waits in it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "rag_jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("queue", sa.String(32), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("collection", sa.String(63), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rag_jobs"),
    )
    op.create_table(
        "rag_files",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("queue", sa.String(32), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("collection", sa.String(63), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("document", sa.String(64), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("spooled", sa.String(32), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("passages", sa.Integer, nullable=False),
        sa.Column("embedded", sa.Integer, nullable=False),
        sa.Column("percent", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("warnings", sa.Text),
        sa.Column("worker", sa.String(32)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("finished", sa.Float),
        sa.PrimaryKeyConstraint("id", name="pk_rag_files"),
        sa.ForeignKeyConstraint(["job"], ["rag_jobs.id"], name="fk_rag_files_job", ondelete="CASCADE"),
    )
    op.create_index("ix_rag_files_job", "rag_files", ["job"])
    op.create_index("ix_rag_files_queue", "rag_files", ["queue", "status", "due"])
    op.create_table(
        "rag_turns",
        sa.Column("queue", sa.String(32), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("taken", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("queue", "tenant", name="pk_rag_turns"),
    )
    op.create_table(
        "rag_uploads",
        sa.Column("spooled", sa.String(32), nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("queue", sa.String(32), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("spooled", "part", name="pk_rag_uploads"),
    )


def downgrade() -> None:
    for table in ("rag_uploads", "rag_turns", "rag_files", "rag_jobs"):
        op.drop_table(table)
