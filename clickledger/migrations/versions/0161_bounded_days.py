"""No partition of a day that no click can have."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "bounded_days"
down_revision = "run_features"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "bounded_days.sql"


def upgrade() -> None:
    """Replace one function; nothing stored changes."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
