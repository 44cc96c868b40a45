"""Entries recorded for roles that may not write the log themselves."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "rights"
down_revision = "sparse"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "rights.sql"


def upgrade() -> None:
    """Create what roles call; the roles themselves and their grants follow every migration (ledger/granting.py)."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
