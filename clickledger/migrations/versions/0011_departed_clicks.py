"""Clicks of sparse runs that leave with a day are kept, so that such a day can leave."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "departed_clicks"
down_revision = "checkpoint_entries"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "departed_clicks.sql"


def upgrade() -> None:
    """Add the column; nothing stored changes."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
