"""What detection reads."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0007_recovery.sql"


def upgrade() -> None:
    """Create the known customers, empty: detection fills them from the outcomes recorded so far."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
