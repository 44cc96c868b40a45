"""Alembic's entry: one connection, one transaction per migration, DDL as SQL files."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool

URL = context.config.get_main_option("sqlalchemy.url")
if not URL:
    raise SystemExit("error: no database url; run migrations through `clickledger up` or ledger.schema.migrate")

with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
