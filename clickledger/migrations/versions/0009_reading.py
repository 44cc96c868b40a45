"""Reading one click as of any log position."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "reading"
down_revision = "append"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "reading.sql"


def upgrade() -> None:
    """Add the function; nothing stored changes."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
