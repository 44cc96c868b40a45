"""A ledger filled by SQL: millions of decisions in a minute, where appends would take many.

What is not as the real calls leave it, and not read by what is measured: a batch entry has one leaf, of nothing, so
`audit verify` would refuse such a ledger; chunks of a run carry the digest of nothing. All else is what the real calls
write: entries come from `write_entry` under the log's lock, rows lie in position order, and runs are planned, staged,
compared and published by `ledger.runs`, `comparison` and `publication`, so that authority, publications and
adjustments are exactly theirs.
"""

from __future__ import annotations

from datetime import UTC, datetime

from benchmarks.models import ACTOR
from clickledger.ledger import comparison, database, deployments, log, partitions, publication, runs

BATCH_CLICKS = 256
FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)
DAY_MS = partitions.DAY_MS
FLIPPED = 26  # of 256: a replay changes the verdict of every tenth decision
WRITE_ENTRIES = """
    DO $$ BEGIN
        PERFORM take_log_lock();
        FOR n IN 1..{entries} LOOP
            WITH entry AS (
                SELECT position
                FROM write_entry('clicks_decided', 'benchmark', '', '{{}}', {rows}, sha256(sha256(''))))
            INSERT INTO leaves SELECT position, sha256('') FROM entry;
        END LOOP;
    END $$"""
# Click `i` of all: its id and the numbers that its fields follow from.
NUMBERED = """
    SELECT i, {position} + i / {rows} AS log_position, (i %% {rows})::integer AS line, n AS noise,
           (lpad(to_hex({start_ms} + i * {span_ms} / {clicks}), 12, '0') || '7' || substr(h, 1, 3) || '8'
               || substr(h, 4, 15))::uuid AS click_id
    FROM generate_series({lo}::bigint, {hi}::bigint - 1) i
    CROSS JOIN LATERAL (SELECT md5(i::text) AS h) hashed
    CROSS JOIN LATERAL (SELECT hashint8(i) & 2147483647 AS n) numbered"""
INSERT_DECISIONS = """
    INSERT INTO decisions (click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice,
                           deployment_epoch, model_version, calibration_version, score, threshold, verdict, reason,
                           carried)
    SELECT click_id, log_position, line, 'adv-' || noise %% 50, 'cmp-' || noise %% 400, 10000 + noise %% 890000, 'USD',
           (ARRAY['app/in', 'app/out', 'web/in', 'web/out'])[1 + noise %% 4], 0, {model}, {calibration},
           (noise %% 1000)::real / 100 - 5, 1.5,
           (CASE WHEN noise %% 100 < 80 THEN 'valid'
                 WHEN noise %% 100 < 98 THEN 'invalid' ELSE 'undecided' END)::verdict,
           '', false
    FROM ({numbered}) numbered"""
INSERT_CLICKS = """
    INSERT INTO clicks (click_id, log_position, source, external_id, user_key, session_key, ip_key, device, device_kind,
                        advertiser_id, campaign_id, cost_micros, currency, logged_in, slice, intake_digest, features,
                        feature_schema, counter_epoch, seq)
    SELECT click_id, log_position, 's', to_hex(i), click_id, click_id, click_id, '', '', 'adv-' || noise %% 50,
           'cmp-' || noise %% 400, 10000 + noise %% 890000, 'USD', NULL,
           (ARRAY['app/in', 'app/out', 'web/in', 'web/out'])[1 + noise %% 4], '\\x00', '\\x00000000', 1, 1, 0
    FROM ({numbered}) numbered"""
INSERT_REDECIDED = """
    INSERT INTO delayed_decisions
    SELECT click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch,
           {model}, {calibration}, score, threshold,
           CASE WHEN get_byte(uuid_send(click_id), 15) >= {flipped} THEN verdict
                WHEN verdict = 'valid' THEN 'invalid' ELSE 'valid' END::verdict, 'replayed', false, {run}
    FROM decisions WHERE log_position >= {lo} AND log_position < {hi}"""
FINISH_CHUNKS = "UPDATE replay_chunks SET status = 'done', content_digest = sha256('') WHERE run_id = %s"


class Filled:
    """A ledger of `clicks` decisions, a multiple of 256, evenly over `days`; positions [lo, hi) are theirs."""

    def __init__(self, conn: database.Connection, clicks: int, days: int, *, with_clicks: bool = False) -> None:
        self._conn = conn
        self.clicks, self.days = clicks, days
        self.start_ms = int(FIRST_DAY.timestamp()) * 1000
        self.model = deployments.register_model(conn, b"weights", "velocity", {}, ACTOR)
        self.calibration = deployments.set_calibration(conn, self.model, {"*": 1.0}, {}, ACTOR)
        partitions.ensure(conn, range(self.start_ms // DAY_MS, self.start_ms // DAY_MS + days))
        self.lo = log.head(conn).position + 1
        conn.execute(WRITE_ENTRIES.format(entries=clicks // BATCH_CLICKS, rows=BATCH_CLICKS).encode())
        self.hi = log.head(conn).position + 1
        for day in range(days):
            self._fill_day(day, with_clicks)
        tables = "decisions, clicks" if with_clicks else "decisions"
        conn.execute(f"VACUUM (ANALYZE) log, leaves, {tables}".encode())  # summarises block ranges, as autovacuum would

    def bounds(self, day: int) -> tuple[int, int]:
        """The numbers [lo, hi) of the clicks of a day; the day's length in milliseconds divides them evenly."""
        return -(-self.clicks * day // self.days), -(-self.clicks * (day + 1) // self.days)

    def day_bounds_ms(self, day: int) -> tuple[int, int]:
        """Unix times in milliseconds [from, to) of a day."""
        return self.start_ms + day * DAY_MS, self.start_ms + (day + 1) * DAY_MS

    def _fill_day(self, day: int, with_clicks: bool) -> None:
        lo, hi = self.bounds(day)
        numbered = self.numbered(lo, hi)
        versions = {"model": self.model, "calibration": self.calibration}
        for statement in (INSERT_CLICKS, INSERT_DECISIONS) if with_clicks else (INSERT_DECISIONS,):
            self._conn.execute(statement.format(numbered=numbered, **versions).replace("%%", "%").encode())

    def numbered(self, lo: int, hi: int) -> str:
        """SQL of the clicks numbered [lo, hi): their ids, positions, lines and noise."""
        return NUMBERED.format(
            position=self.lo, rows=BATCH_CLICKS, start_ms=self.start_ms, span_ms=self.days * DAY_MS, clicks=self.clicks,
            lo=lo, hi=hi,
        )  # fmt: skip

    def replayed(self, lo: int, hi: int) -> tuple[int, str]:
        """A staged and compared run over log positions [lo, hi): its id and its comparison's digest."""
        versions = {"model_version": self.model, "calibration_version": self.calibration}
        run = runs.plan(self._conn, lo, hi, actor=ACTOR, reason="measured", **versions)
        parts = {"model": self.model, "calibration": self.calibration, "flipped": FLIPPED, "run": run.run_id}
        self._conn.execute(INSERT_REDECIDED.format(lo=lo, hi=hi, **parts).encode())
        self._conn.execute(FINISH_CHUNKS, (run.run_id,))
        runs.stage(self._conn, run.run_id, ACTOR)
        return run.run_id, comparison.compare(self._conn, run.run_id, ACTOR).digest

    def published(self, lo: int, hi: int) -> publication.Published:
        """The same, published."""
        run_id, digest = self.replayed(lo, hi)
        return publication.publish(self._conn, run_id, digest, ACTOR, "measured")
