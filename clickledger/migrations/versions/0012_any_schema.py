"""Days can be made and sealed in a ledger whose schema is not `public`."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "any_schema"
down_revision = "departed_clicks"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "any_schema.sql"


def upgrade() -> None:
    """Take the schema's name out of two functions; nothing stored changes."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
