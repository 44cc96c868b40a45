"""Checkpoints as entries of the log."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "checkpoint_entries"
down_revision = "reading"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "checkpoint_entries.sql"


def upgrade() -> None:
    """Record the checkpoints there are; no row is touched."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
