"""Days attached ahead, frozen when over, detached under retention."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "partitions"
down_revision = "proofs"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "partitions.sql"


def upgrade() -> None:
    """Replace the making of days and add what retention needs; no row is touched."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
