"""Plans are kept, runs pause, and backtests can never be published."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "replay_controls"
down_revision = "signal_ticks"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "replay_controls.sql"


def upgrade() -> None:
    """Add a table, a column and checks; nothing stored changes."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
