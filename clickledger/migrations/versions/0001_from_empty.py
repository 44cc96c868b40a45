"""The first schema: log, clicks and decisions, cached folds, append, reading."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
FILES = ("0001_log", "0002_clicks", "0003_folds", "0004_append", "0005_reading", "0006_genesis")


def upgrade() -> None:
    """Create everything; PL/pgSQL bodies go to the server as they stand in the files."""
    cursor = op.get_bind().connection.cursor()
    for name in FILES:
        cursor.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))
