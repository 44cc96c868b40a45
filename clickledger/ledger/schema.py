"""Migrations: brings a database to the schema this version needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from clickledger import errors, migrations
from clickledger.ledger import database, granting

MINIMUM_SERVER_VERSION = 150000


def migrate(url: str) -> None:
    """Upgrade the database at `url` to the newest schema; nothing happens when it is there already.

    Roles are made before, grants after (`granting`). Raises Unavailable when the server does not answer, InvalidInput
    when it is older than PostgreSQL 15, Refused when the user may not make the roles.
    """
    with database.connect(url) as conn:
        version = conn.info.server_version
        # Two `up`s at once: the second waits here, then finds nothing to do.
        conn.execute("SELECT pg_advisory_lock(7163956285231296105)")
        if version < MINIMUM_SERVER_VERSION:
            raise errors.InvalidInput(f"expected PostgreSQL 15 or later, got server version {version}")
        granting.make_roles(conn)
        try:
            command.upgrade(_config(url), "head")
        except OperationalError as error:
            raise errors.Unavailable(f"migration failed: {error.orig}") from error
        granting.apply(conn)


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    sqlalchemy_url = make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    config.set_main_option("sqlalchemy.url", sqlalchemy_url.replace("%", "%%"))
    return config
