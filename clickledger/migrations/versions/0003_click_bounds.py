"""The click ids that runs, publications and pieces of the authority map touch."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "click_bounds"
down_revision = "0002"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "click_bounds.sql"


def upgrade() -> None:
    """Add the columns, empty: what was published before goes unpruned."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
