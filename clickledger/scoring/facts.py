"""Slow facts of an address: which networks are data centres, looked up where the address is last known, at the intake.

Invariants:
- the address stays at the intake: a click carries what the table said, and which version of it was asked;
- a snapshot records what was found in the very version that the deployment names (`deciding`). Whoever takes clicks in
  with another one, for a moment or for long, leaves the flag without a value: it is never that of another table.
"""

from __future__ import annotations

from pathlib import Path

from clickledger.errors import InvalidInput
from clickledger.ledger import database, deployments, fact_tables
from clickledger.scoring import networks
from clickledger.scoring.networks import NO_FACTS, AddressFacts

DATA_CENTRE_NETWORKS = "data_centre_networks"
NAMES = (DATA_CENTRE_NETWORKS,)


def read_file(path: Path) -> bytes:
    """The content of a file of networks. Raises InvalidInput."""
    try:
        with path.open("rb") as file:
            return file.read(networks.BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"networks file {path}: expected a readable file, got: {error.strerror}") from error


def register(conn: database.Connection, name: str, content: bytes, *, actor: str, reason: str) -> int:
    """Register a table; its version. The same content again keeps its version. Raises InvalidInput naming the line."""
    require_name(name)
    rows = networks.parse(content).rows
    return fact_tables.register(conn, name, content, rows, actor, reason)


def require_name(name: str) -> None:
    """Raise InvalidInput for a table that nothing reads."""
    if name not in NAMES:
        raise InvalidInput(f"table of facts: expected one of {', '.join(NAMES)}, got {name!r}")


def load(conn: database.Connection, version: int) -> AddressFacts:
    """A registered table, ready to look into; 0 is none. Raises NotFound, InvalidInput for a table of another kind."""
    if not version:
        return NO_FACTS
    table = fact_tables.load(conn, version)
    require_name(table.name)
    return AddressFacts(version, networks.parse(table.content))


def in_force(conn: database.Connection, held: AddressFacts = NO_FACTS) -> AddressFacts:
    """The table that the deployment in force names; `held` itself where it is that."""
    version = deployments.facts_version(deployments.current(conn).routing)
    return held if version == held.version else load(conn, version)
