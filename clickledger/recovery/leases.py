"""Holding a lease while its chunk takes longer than the lease lasts: a thread renews it until the chunk is done.

A killed worker renews nothing, so its chunk is taken over one lease after its last sign of life, however long chunks
take. A chunk that is quick starts no connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from clickledger import errors
from clickledger.ledger import database
from clickledger.ledger.rights import Role
from clickledger.recovery.chunks import Lease

RENEW = """
    UPDATE replay_chunks SET lease_until = clock_timestamp() + make_interval(secs => %s)
    WHERE run_id = %s AND chunk_no = %s AND token = %s AND status = 'leased'"""


@contextmanager
def kept(database_url: str | None, lease: Lease, lease_seconds: float) -> Iterator[None]:
    """Renew the lease every third of its length while the block lasts; without an address it just runs out."""
    if database_url is None:
        yield
        return
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(database_url, lease, lease_seconds, done), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()


def _renew(database_url: str, lease: Lease, lease_seconds: float, done: threading.Event) -> None:
    if done.wait(lease_seconds / 3):
        return
    identity = (lease_seconds, lease.run_id, lease.chunk_no, lease.token)
    try:
        with database.connect(database_url, application_name="clickledger-lease", role=Role.REPLAYER) as conn:
            while conn.execute(RENEW, identity).rowcount == 1 and not done.wait(lease_seconds / 3):
                pass
    except errors.ClickledgerError:
        return  # it runs out; what was computed is kept only if nobody else took the chunk meanwhile
