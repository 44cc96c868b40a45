"""Ticks of detection, folded once."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "signal_ticks"
down_revision = "early_purchases"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "signal_ticks.sql"


def upgrade() -> None:
    """Create the ticks, empty from the head on, and fold the purchases again, which are counted now."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
