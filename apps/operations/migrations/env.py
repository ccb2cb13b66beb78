"""What alembic runs to reach the database: always the connection that `engines.py` hands it."""

from alembic import context

from apps.operations.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by copying it
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
