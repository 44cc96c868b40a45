"""Appends that look known clicks up in their own days only, and imports."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "append"
down_revision = "partitions"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "append.sql"


def upgrade() -> None:
    """Replace functions; no row is touched."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
