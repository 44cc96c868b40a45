"""What a recompute run decided on is kept."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "run_features"
down_revision = "replay_controls"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "run_features.sql"


def upgrade() -> None:
    """Add a table and a column; nothing stored changes."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
