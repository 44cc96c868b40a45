"""Signed checkpoints and the tiles of the Merkle tree over the log."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "proofs"
down_revision = "rights"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "proofs.sql"


def upgrade() -> None:
    """Create both tables, empty: tiles are made from the log when the first checkpoint is signed."""
    op.get_bind().connection.cursor().execute(SQL.read_text(encoding="utf-8"))
