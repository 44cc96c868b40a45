"""How far a replay has come: one query over its chunk rows."""

from __future__ import annotations

from dataclasses import dataclass

from clickledger import errors
from clickledger.ledger import database

SELECT_PROGRESS = """
    SELECT r.run_id, r.status, r.incident_id, r.row_count, lower(r.positions), upper(r.positions), r.model_version,
           r.kind, r.mode, r.paused_position,
           count(c.*), count(*) FILTER (WHERE c.status = 'done'), count(*) FILTER (WHERE c.status = 'leased'),
           count(*) FILTER (WHERE c.status = 'quarantined'),
           coalesce(sum(c.row_count) FILTER (WHERE c.status = 'done'), 0)::bigint,
           (SELECT max(x.comparison_id) FROM comparisons x WHERE x.run_id = r.run_id),
           (SELECT max(p.position) FROM publications p WHERE p.run_id = r.run_id AND p.reverted_position IS NULL),
           (SELECT max(p.reverted_position) FROM publications p WHERE p.run_id = r.run_id)
    FROM replay_runs r LEFT JOIN replay_chunks c USING (run_id)
    WHERE (%(run)s::bigint IS NULL OR r.run_id = %(run)s)
      AND (%(all)s OR r.status = 'planned'
           OR (r.status = 'staged' AND NOT EXISTS (SELECT FROM comparisons x WHERE x.run_id = r.run_id)))
    GROUP BY r.run_id ORDER BY r.run_id"""
SELECT_QUARANTINED = """
    SELECT chunk_no, attempts, last_error FROM replay_chunks
    WHERE run_id = %s AND status = 'quarantined' ORDER BY chunk_no"""


@dataclass(frozen=True, slots=True)
class Progress:
    """One run over log positions [lo, hi) and its chunks."""

    run_id: int
    status: str
    incident_id: int | None
    clicks: int
    lo: int
    hi: int
    model_version: int
    kind: str
    mode: str
    paused_position: int | None
    chunks: int
    done: int
    leased: int
    quarantined: int
    clicks_done: int
    comparison_id: int | None
    published_position: int | None
    reverted_position: int | None

    @property
    def todo(self) -> int:
        """Chunks nobody works on."""
        return self.chunks - self.done - self.leased - self.quarantined

    @property
    def stage(self) -> str:
        """Where the run stands.

        replaying | paused | stuck | staging | comparing | compared |
        published | abandoned.
        """
        if self.status == "abandoned":
            return "abandoned"
        if self.status == "planned":
            if self.paused_position is not None:
                return "paused"
            stuck = self.quarantined and self.done + self.quarantined == self.chunks
            return "stuck" if stuck else "staging" if self.done == self.chunks else "replaying"
        if self.published_position is not None:
            return "published"
        return "comparing" if self.comparison_id is None else "compared"


def of_run(conn: database.Connection, run_id: int) -> Progress:
    """One run. Raises NotFound."""
    found = _select(conn, {"run": run_id, "all": True})
    if not found:
        raise errors.NotFound(f"no replay run {run_id}")
    return found[0]


def listed(conn: database.Connection) -> list[Progress]:
    """Every run, in the order they were planned."""
    return _select(conn, {"run": None, "all": True})


def unfinished(conn: database.Connection) -> list[Progress]:
    """The runs that were not compared yet: in replay, stuck, or to be staged or compared."""
    return _select(conn, {"run": None, "all": False})


def quarantined(conn: database.Connection, run_id: int) -> list[tuple[int, int, str]]:
    """Chunks set aside: number, attempts, last error."""
    return [(no, attempts, error or "") for no, attempts, error in conn.execute(SELECT_QUARANTINED, (run_id,))]


def _select(conn: database.Connection, wanted: dict[str, int | bool | None]) -> list[Progress]:
    return [Progress(*row) for row in conn.execute(SELECT_PROGRESS, wanted)]
