"""Sparse corrections: runs that re-decide a few clicks here and there, and the overrides they put in force."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "sparse"
down_revision = "click_bounds"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "sparse.sql"


def upgrade() -> None:
    """Everything published so far was published over a range; its map rows learn by which publication."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
