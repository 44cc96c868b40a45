"""Ledgers that several modules of tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bundled_ledger
import correcting
import leaving
import pytest
from clones import Clones

from clickledger.ledger import database, proof_bundle


@pytest.fixture
def two_entries(conn: database.Connection) -> database.Connection:
    """Clicks 0 to 4 of `correcting` at position 2, 5 to 9 at position 3, all valid and of 1,000 micros."""
    correcting.append_two_entries(conn)
    return conn


@pytest.fixture
def lived(conn: database.Connection) -> database.Connection:
    """Two days of `leaving` over three entries, and a published run."""
    leaving.live_two_days(conn)
    return conn


@pytest.fixture
def bundled(conn: database.Connection) -> bundled_ledger.Ledger:
    """A ledger of which one click has everything a proof bundle can tell."""
    return bundled_ledger.decided_and_corrected(conn)


@pytest.fixture(scope="module")
def bundled_once(servers: Any, template_database: str) -> Iterator[bundled_ledger.Ledger]:
    """The same for the tests of a module that only read it."""
    with Clones(servers.database_url, template_database) as clones, database.connect(clones.another()) as conn:
        yield bundled_ledger.decided_and_corrected(conn)


@pytest.fixture(scope="module")
def bundle_once(bundled_once: bundled_ledger.Ledger) -> proof_bundle.Bundle:
    """The bundle of its click."""
    return bundled_once.bundle()
