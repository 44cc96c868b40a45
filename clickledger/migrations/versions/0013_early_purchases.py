"""Purchases that were recorded before their click make known customers, too."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "early_purchases"
down_revision = "any_schema"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "early_purchases.sql"


def upgrade() -> None:
    """Fold the purchases of the whole log again; what they made already stays."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
